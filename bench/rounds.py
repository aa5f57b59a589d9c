"""Measuring several subjects in turns, so that their ratios are of the same minute."""

import statistics
import sys
from collections.abc import Callable

from load import Measured

Subjects = dict[str, Callable[[], Measured]]
Values = dict[str, list[float]]  # what was measured → a value for each round

PEERS = ("litellm", "portkey")


def in_turns(subjects: Subjects, rounds: int) -> dict[str, Values]:
    """Every subject once per round, A B A B. A peer that fails is told and left out of its round."""
    found: dict[str, Values] = {name: {} for name in subjects}
    for _ in range(rounds):
        for name, measure in subjects.items():
            try:
                measured = measure()
            except RuntimeError as error:
                if name not in PEERS:
                    raise
                print(f"{name}: {error}", file=sys.stderr)
                continue
            for what, value in measured.items():
                found[name].setdefault(what, []).append(value)
    return found


def medians(values: Values) -> Measured:
    """The median of all rounds of each."""
    return {what: statistics.median(each) for what, each in values.items() if None not in each}
