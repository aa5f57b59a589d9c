"""Draw results.json: `python bench/chart.py RESULTS FOLDER` makes performance.png and performance.pt-BR.png there.

In an environment of its own, for it needs matplotlib.
"""

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from report import format_number

COLOURS = {"gateway": "#1f6feb", "hello": "#8c959f", "litellm": "#bf8700", "portkey": "#8250df"}
COUNTS = (100, 500, 1000, 2000)
TEXTS = {
    "en": {
        "hello": "bare Flask",
        "calls": "Whole calls per second, 32 clients, one core",
        "streams": "Streams of 102 events per second, one core",
        "live": "Delay of live streams in chatapi, one core",
        "count": "streams opened at once, 20 tokens a second each",
        "first": "first token, median",
        "gap": "gap between tokens, p99",
        "pace": "the model's own pace, 50 ms",
    },
    "pt-BR": {
        "hello": "Flask mínimo",
        "calls": "Chamadas inteiras por segundo, 32 clientes, um núcleo",
        "streams": "Streams de 102 eventos por segundo, um núcleo",
        "live": "Atraso de streams ao vivo no chatapi, um núcleo",
        "count": "streams abertos de uma vez, 20 tokens por segundo cada um",
        "first": "primeiro token, mediana",
        "gap": "intervalo entre tokens, p99",
        "pace": "o ritmo do próprio modelo, 50 ms",
    },
}


def bars(axes: Axes, subjects: Mapping[str, Any], texts: Mapping[str, str], language: str) -> None:
    """Calls per second of each, the median of its rounds."""
    names = {"gateway": "chatapi", "hello": texts["hello"], "litellm": "LiteLLM", "portkey": "Portkey"}
    values = {name: statistics.median(v) for name in names if (v := subjects.get(name, {}).get("calls_per_s"))}
    drawn = axes.barh([names[name] for name in values], values.values(), color=[COLOURS[name] for name in values])
    axes.bar_label(drawn, labels=[format_number("{:,.0f}", value, language) for value in values.values()], padding=4)
    axes.set_xlim(0, max(values.values()) * 1.2)
    axes.set_xticks([])
    axes.invert_yaxis()


def lines(axes: Axes, scenarios: Mapping[str, Any], texts: Mapping[str, str], language: str) -> None:
    """How late tokens are, by the number of live streams."""
    counts = [count for count in COUNTS if f"streams-{count}" in scenarios]
    for what, label, above in (("first_p50_s", "first", True), ("gap_p99_s", "gap", False)):
        values = [statistics.median(scenarios[f"streams-{count}"]["gateway"][what]) * 1000 for count in counts]
        axes.plot(counts, values, marker="o", label=texts[label])
        for count, value in zip(counts, values, strict=True):
            where = {"textcoords": "offset points", "xytext": (0, 7 if above else -14), "ha": "center"}
            axes.annotate(format_number("{:,.0f}", value, language), (count, value), **where)
    axes.axhline(50, color="#8c959f", linestyle=":", label=texts["pace"])
    axes.set_xlabel(texts["count"])
    axes.set_ylabel("ms")
    axes.set_xticks(counts, [format_number("{:,.0f}", count, language) for count in counts])
    axes.margins(x=0.08, y=0.2)
    axes.set_ylim(bottom=-20)
    axes.legend(frameon=False)


def draw(scenarios: Mapping[str, Any], language: str, png: Path) -> None:
    """One picture in one language."""
    texts = TEXTS[language]
    figure, (calls, streams, live) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    for axes, title, scenario in ((calls, "calls", "calls-32"), (streams, "streams", "fast-streams")):
        axes.set_title(texts[title], fontsize=11)
        if scenario in scenarios:
            bars(axes, scenarios[scenario], texts, language)
    live.set_title(texts["live"], fontsize=11)
    if any(f"streams-{count}" in scenarios for count in COUNTS):
        lines(live, scenarios, texts, language)
    for axes in (calls, streams, live):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(png, dpi=110)


if __name__ == "__main__":
    found, folder = json.loads(Path(sys.argv[1]).read_text())["scenarios"], Path(sys.argv[2])
    draw(found, "en", folder / "performance.png")
    draw(found, "pt-BR", folder / "performance.pt-BR.png")
