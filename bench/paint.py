"""When a page of the gateway is painted for the first time: `.venv/bin/python bench/paint.py [--path /docs]`.

In headless Chromium, by its Performance API, in milliseconds since the navigation began. `cold` is a reader who
has never been here, with an empty cache and a new renderer process; `again` is one who comes back.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.browser import chromium  # noqa: E402
from support.gateways import serve  # noqa: E402
from support.upstream import Upstream  # noqa: E402

PAINTED = "() => Object.fromEntries(performance.getEntriesByType('paint').map(one => [one.name, one.startTime]))"
NAMES = ("first-paint", "first-contentful-paint")


def cold(browser: Any, address: str, rounds: int) -> list[dict[str, float]]:
    """Each time somebody new."""
    found = []
    for _round in range(rounds):
        context = browser.new_context()
        found += visits(context.new_page(), address, 1)
        context.close()
    return found


def again(browser: Any, address: str, rounds: int) -> list[dict[str, float]]:
    """All but the first visit of one reader."""
    context = browser.new_context()
    found = visits(context.new_page(), address, rounds + 1)[1:]
    context.close()
    return found


def visits(page: Any, address: str, rounds: int) -> list[dict[str, float]]:
    """What was painted when, in each visit."""
    found = []
    for _round in range(rounds):
        page.goto(address, wait_until="networkidle")
        found.append(page.evaluate(PAINTED))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="/")
    parser.add_argument("--rounds", type=int, default=11)
    given = parser.parse_args()
    with Upstream() as upstream, chromium() as browser:
        env = {"HUGGINGFACE_API_KEY": "hf_none", "HUGGINGFACE_BASE_URL": upstream.url}
        with serve(env) as gateway:
            for ask in (cold, again):
                found = ask(browser, gateway.url + given.path, given.rounds)
                for name in NAMES:
                    times = sorted(one[name] for one in found)
                    print(f"{ask.__name__:6} {name:23} median {statistics.median(times):4.0f} ms   {times}")


if __name__ == "__main__":
    main()
