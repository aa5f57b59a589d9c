"""Results as a table for people: medians, and how the gateway compares in the same rounds."""

import statistics
from collections.abc import Mapping, Sequence

Values = Mapping[str, Sequence[float]]  # what was measured → a value for each round

# Name of a column → its heading and how a value is written. The first ones are better when larger.
COLUMNS: dict[str, tuple[str, str]] = {
    "calls_per_s": ("calls/s", "{:,.0f}"),
    "other_per_s": ("other calls/s", "{:,.1f}"),
    "cpu_us": ("CPU µs", "{:,.0f}"),
    "cpu_us_stream": ("CPU µs a stream", "{:,.0f}"),
    "p50_ms": ("p50 ms", "{:,.2f}"),
    "p99_ms": ("p99 ms", "{:,.1f}"),
    "max_ms": ("max ms", "{:,.0f}"),
    "usage_ms": ("/v1/usage ms", "{:,.1f}"),
    "lost": ("lost", "{:.0f}"),
    "first_p50_s": ("first token p50 s", "{:.3f}"),
    "first_p99_s": ("first token p99 s", "{:.3f}"),
    "gap_p50_s": ("gap p50 s", "{:.3f}"),
    "gap_p99_s": ("gap p99 s", "{:.3f}"),
    "rss_mb": ("memory MB", "{:.0f}"),
    "load_core": ("load's core busy", "{:.0%}"),
    "ready_s": ("first answer s", "{:.2f}"),
    "connections": ("new connections", "{:.0f}"),
    "resumed": ("sessions resumed", "{:.0f}"),
}


def median(values: Values, column: str) -> float | None:
    """The median of all rounds; None where it was not measured."""
    found = [value for value in values.get(column, []) if value is not None]
    return statistics.median(found) if found else None


def ratio(one: Values, other: Values, column: str) -> float | None:
    """The median of `one` / `other` in the same round."""
    pairs = [(a, b) for a, b in zip(one.get(column, []), other.get(column, []), strict=False) if a and b]
    return statistics.median(a / b for a, b in pairs) if pairs else None


def table(subjects: Mapping[str, Values], columns: Sequence[str]) -> str:
    """Markdown. Where the gateway is among the subjects, the last column is its calls per second beside theirs."""
    compared = "calls_per_s" in columns and len(subjects) > 1
    first = next(iter(subjects))
    head = ["", *(COLUMNS[column][0] for column in columns), *([f"{first} is"] if compared else [])]
    rows = [head, [":--", *["--:"] * (len(head) - 1)]]
    for name, values in subjects.items():
        row = [name]
        for column in columns:
            value = median(values, column)
            row.append("–" if value is None else COLUMNS[column][1].format(value))
        if compared:
            times = ratio(subjects[first], values, "calls_per_s")
            row.append(f"{times:.2f}×" if times and name != first else "")
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
