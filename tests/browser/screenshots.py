"""Pictures of the pages for docs/images, light and dark: `make screenshots`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.browser import chromium, visit  # noqa: E402
from support.gateways import serve  # noqa: E402
from support.upstream import Upstream, saying  # noqa: E402

FOLDER = ROOT / "docs" / "images"
ANSWER = """\
The sky is blue because **sunlight scatters** off the molecules of the air, and short waves scatter far more than long
ones: the share grows with `1/λ⁴`.

```python
def scattered(wavelength_nm: float) -> float:
    \"\"\"How much is scattered, beside red light.\"\"\"
    return (700 / wavelength_nm) ** 4

print(f"{scattered(450):.1f} times")  # blue
```

| Colour | nm | Scattered |
|---|---:|---:|
| Blue | 450 | 5.9 |
| Red | 700 | 1.0 |
"""


def playground(page: Page) -> None:
    box = page.get_by_label("Model", exact=True)
    box.fill("example/Chat-70B-Instruct")
    box.press("Enter")
    page.get_by_label("System prompt").fill("Answer briefly, with an example.")
    page.get_by_label("temperature").fill("0.4")
    page.get_by_label("Message", exact=True).fill("Why is the sky blue?")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Send").wait_for()
    page.locator(".hljs-keyword").first.wait_for()
    page.locator("summary", has_text="Details").click()
    page.locator("#thread").evaluate("thread => thread.scrollTo(0, 0)")


PAGES: dict[str, tuple[str, Callable[[Page], None]]] = {"playground": ("/", playground)}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with Upstream() as upstream, chromium() as browser:
        upstream.behave("example/Chat-70B-Instruct", saying(ANSWER, pause=0.02))
        with serve({"HUGGINGFACE_API_KEY": "hf_example", "HUGGINGFACE_BASE_URL": upstream.url}) as gateway:
            for name, (path, prepare) in PAGES.items():
                for scheme in ("light", "dark"):
                    with visit(browser, gateway.url, path, color_scheme=scheme) as page:
                        prepare(page)
                        page.screenshot(path=FOLDER / f"{name}-{scheme}.png")
                        print(f"docs/images/{name}-{scheme}.png")


if __name__ == "__main__":
    main()
