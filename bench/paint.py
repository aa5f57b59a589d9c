"""When a page of the gateway is painted for the first time: `.venv/bin/python bench/paint.py [--path /docs]`.

In headless Chromium, by its Performance API, in milliseconds since the navigation began. `cold` is a reader who
has never been here, with an empty cache and a new renderer process; `again` is one who comes back. Beside each visit
stands one to an empty page, whose time is the browser's own and the machine's: only what a page takes beyond it is
comparable from one hour to the next.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.browser import chromium  # noqa: E402
from support.gateways import Gateway, serve  # noqa: E402
from support.upstream import Upstream  # noqa: E402

PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
EMPTY = b"<!doctype html><title>empty</title><p>empty"


class Empty(BaseHTTPRequestHandler):
    """A page of one word."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(EMPTY)))
        self.end_headers()
        self.wfile.write(EMPTY)

    def log_message(self, *_args: object) -> None:
        pass


@contextmanager
def empty_page() -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def serving(upstream: Upstream) -> AbstractContextManager[Gateway]:
    """A gateway before `upstream`."""
    return serve({"HUGGINGFACE_API_KEY": "hf_none", "HUGGINGFACE_BASE_URL": upstream.url})


def time_paint(page: Any, address: str) -> float:
    """When the page at `address` was painted for the first time, in milliseconds."""
    page.goto(address, wait_until="networkidle")
    return float(page.evaluate(PAINTED))


def cold(browser: Any, addresses: list[str], rounds: int) -> list[list[float]]:
    """Each time somebody new, at each address in turn."""
    found = []
    for _round in range(rounds):
        found.append([])
        for address in addresses:
            context = browser.new_context()
            found[-1].append(time_paint(context.new_page(), address))
            context.close()
    return found


def again(browser: Any, addresses: list[str], rounds: int) -> list[list[float]]:
    """All but the first visits of one reader of each address."""
    contexts = [browser.new_context() for _address in addresses]
    pages = [context.new_page() for context in contexts]
    found = [[time_paint(*visit) for visit in zip(pages, addresses, strict=True)] for _round in range(rounds + 1)]
    for context in contexts:
        context.close()
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", default="/")
    parser.add_argument("--rounds", type=int, default=11)
    given = parser.parse_args()
    with Upstream() as upstream, empty_page() as empty, chromium() as browser, serving(upstream) as gateway:
        for ask in (cold, again):
            found = ask(browser, [empty, gateway.url + given.path], given.rounds)
            for name, times in zip(("empty", given.path), zip(*found, strict=True), strict=True):
                print(f"{ask.__name__:6} {name:12} median {statistics.median(times):4.0f} ms   {sorted(times)}")
            beyond = statistics.median(page - nothing for nothing, page in found)
            print(f"{ask.__name__:6} {'beyond empty':12} median {beyond:4.0f} ms")
    print("load average: " + " ".join(f"{load:.1f}" for load in os.getloadavg()))


if __name__ == "__main__":
    main()
