"""Pictures of the pages for docs/images, light and dark, in both languages: `make screenshots`."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.browser import chromium, visit  # noqa: E402
from support.gateways import over, serve  # noqa: E402
from support.upstream import Upstream, saying  # noqa: E402

from chatapi import create_app  # noqa: E402
from chatapi.accounting import statements  # noqa: E402
from chatapi.accounting.tables import calls  # noqa: E402
from chatapi.call import call_id  # noqa: E402
from chatapi.caller import NO_LIMITS  # noqa: E402
from chatapi.settings import Settings  # noqa: E402

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
ANSWER_PT = """\
O céu é azul porque a **luz do Sol se espalha** nas moléculas do ar, e as ondas curtas se espalham bem mais que as
longas: a proporção cresce com `1/λ⁴`.

```python
def espalhada(comprimento_nm: float) -> float:
    \"\"\"Quanto se espalha, em comparação com o vermelho.\"\"\"
    return (700 / comprimento_nm) ** 4

print(f"{espalhada(450):.1f} vezes")  # azul
```

| Cor | nm | Espalhada |
|---|---:|---:|
| Azul | 450 | 5,9 |
| Vermelho | 700 | 1,0 |
"""
ANSWERS = {"en": ANSWER, "pt-BR": ANSWER_PT}
MODEL = "example/Chat-70B-Instruct"
QUESTION = {"en": "Why is the sky blue?", "pt-BR": "Por que o céu é azul?"}
SYSTEM = {"en": "Answer briefly, with an example.", "pt-BR": "Responda em poucas palavras, com um exemplo."}
WORDS = {
    "en": ("Model", "System prompt", "Message", "Send"),
    "pt-BR": ("Modelo", "Prompt de sistema", "Mensagem", "Enviar"),
}
HOUR_S = 3600
KEYS = {"search": 0.45, "support desk": 0.3, "nightly reports": 0.15, "old mobile app": 0.1}
MODELS = {"openai/gpt-oss-120b": 900.0, "meta-llama/Llama-3.3-70B-Instruct": 620.0, "Qwen/Qwen3-32B": 430.0}


def playground(page: Page, language: str) -> None:
    model, system, message, send = WORDS[language]
    box = page.get_by_label(model, exact=True)
    box.fill(MODEL)
    box.press("Enter")
    page.get_by_label(system).fill(SYSTEM[language])
    page.get_by_label("temperature").fill("0.4")
    page.get_by_label(message, exact=True).fill(QUESTION[language])
    page.get_by_role("button", name=send).click()
    page.get_by_role("button", name=send).wait_for()
    page.locator(".hljs-keyword").first.wait_for()
    page.locator("#thread").evaluate("thread => thread.scrollTo(0, 0)")


def dashboard(page: Page, language: str) -> None:
    page.locator("#panels").wait_for()
    page.locator("#chart-total-time canvas").wait_for()
    page.mouse.move(640, 420)


def fill_ledger(url: str) -> None:
    """The last hour of a gateway with four keys and three models."""
    parts = create_app(Settings.from_env({"DATABASE_URL": url})).extensions["chatapi"]
    ids = {name: parts.keys.create(name, NO_LIMITS, [], None)[0]["id"] for name in KEYS}
    parts.store.write(partial(statements.record, rows=list(hour(ids))))


def hour(ids: dict[str, str]) -> Iterator[dict[str, Any]]:
    chance = random.Random(7)
    now = time.time()
    for second in range(HOUR_S):
        at = now - HOUR_S + second
        if chance.random() > 0.55 + 0.3 * math.sin(second / 520):
            continue
        key = chance.choices(list(KEYS), list(KEYS.values()))[0]
        model = chance.choices(list(MODELS), (5, 3, 2))[0]
        first = chance.lognormvariate(math.log(MODELS[model] / 2), 0.45)
        row: dict[str, Any] = dict.fromkeys(calls.columns.keys())
        row |= {"id": call_id(at, second % 4096), "request_id": f"{second:032x}", "started_at": at, "key_id": ids[key]}
        row |= {"dialect": "openai", "route": "/v1/chat/completions", "model": model, "served": model, "stream": True}
        row |= {"attempts": 1, "status": 200, "ending": "completed", "owner": "", "until": 0.0}
        row |= {"prompt_tokens": chance.randint(40, 900), "completion_tokens": chance.randint(20, 400)}
        row |= {"first_token_ms": first, "total_ms": first + chance.lognormvariate(math.log(1800), 0.5)}
        if chance.random() < 0.035:
            code = chance.choices(("rate_limited", "upstream_timeout", "invalid_request"), (6, 2, 1))[0]
            row |= {"status": 429, "code": code, "ending": "refused", "served": None}
            row |= dict.fromkeys(("prompt_tokens", "completion_tokens", "first_token_ms", "total_ms"))
        yield row


PAGES: dict[str, tuple[str, Callable[[Page, str], None]]] = {
    "playground": ("/", playground),
    "dashboard": ("/dashboard", dashboard),
}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with Upstream() as upstream, chromium() as browser, TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/chatapi.db"
        fill_ledger(url)
        with serve(over(upstream) | {"DATABASE_URL": url}) as gateway:
            for language, answer in ANSWERS.items():
                upstream.behave(MODEL, saying(answer, pause=0.02))
                for name, (path, prepare) in PAGES.items():
                    for scheme in ("light", "dark"):
                        with visit(browser, gateway.url, path, language=language, color_scheme=scheme) as page:
                            prepare(page, language)
                            suffix = "" if language == "en" else f".{language}"
                            picture = FOLDER / f"{name}-{scheme}{suffix}.png"
                            page.screenshot(path=picture)
                            print(picture.relative_to(ROOT))


if __name__ == "__main__":
    main()
