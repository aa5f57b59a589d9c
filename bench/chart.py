"""Draw results.json: `python bench/chart.py RESULTS PNG`. In an environment of its own, for it needs matplotlib."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

NAMES = {"gateway": "chatapi", "hello": "bare Flask", "litellm": "LiteLLM", "portkey": "Portkey"}
COLOURS = {"gateway": "#1f6feb", "hello": "#8c959f", "litellm": "#bf8700", "portkey": "#8250df"}
COUNTS = (100, 500, 1000, 2000)


def bars(axes: Axes, subjects: dict[str, Any], title: str) -> None:
    """Calls per second of each, the median of its rounds."""
    values = {
        name: statistics.median(subjects[name]["calls_per_s"])
        for name in NAMES
        if subjects.get(name, {}).get("calls_per_s")
    }
    drawn = axes.barh([NAMES[name] for name in values], values.values(), color=[COLOURS[name] for name in values])
    axes.bar_label(drawn, labels=[f"{value:,.0f}" for value in values.values()], padding=4)
    axes.set_title(title)
    axes.set_xlim(0, max(values.values()) * 1.2)
    axes.invert_yaxis()


def lines(axes: Axes, scenarios: dict[str, Any]) -> None:
    """How late tokens are, by the number of live streams."""
    counts = [count for count in COUNTS if f"streams-{count}" in scenarios]
    for what, label in (("first_p50_s", "first token, median"), ("gap_p99_s", "gap between tokens, p99")):
        values = [statistics.median(scenarios[f"streams-{count}"]["gateway"][what]) * 1000 for count in counts]
        axes.plot(counts, values, marker="o", label=label)
        for count, value in zip(counts, values, strict=True):
            axes.annotate(f"{value:,.0f}", (count, value), textcoords="offset points", xytext=(0, 7), ha="center")
    axes.axhline(50, color="#8c959f", linestyle=":", label="the model's own pace, 50 ms")
    axes.set_title("chatapi: live streams opened at once, one core")
    axes.set_xlabel("streams, 20 tokens a second each")
    axes.set_ylabel("ms")
    axes.set_ylim(0)
    axes.margins(x=0.08, y=0.2)
    axes.legend(frameon=False)


def main(results: Path, png: Path) -> None:
    scenarios = json.loads(results.read_text())["scenarios"]
    figure, (calls, streams, live) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    if "calls-32" in scenarios:
        bars(calls, scenarios["calls-32"], "Whole calls per second, 32 clients, one core")
    if "fast-streams" in scenarios:
        bars(streams, scenarios["fast-streams"], "Streams of 102 events per second, one core")
    if any(f"streams-{count}" in scenarios for count in COUNTS):
        lines(live, scenarios)
    for axes in (calls, streams, live):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(png, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
