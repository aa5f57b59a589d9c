"""Where a worker's CPU time goes while it is under load: py-spy's samples as a tree of calls, in microseconds."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from load import Measured

SAMPLES_PER_S = 300
SMALLEST = 0.01  # of the whole: what is less is not printed
IDLE = "acquire_with_timeout ("  # gevent's threads that wait for work
_FRAME = re.compile(r"(.*) \((.*?)(?::(\d+))?\)")
_PREFIX = re.compile(r".*site-packages/|.*/python3\.\d+/|.*/(?=chatapi/)")

Tree = dict[str, "Node"]


class Node:
    """A function, as called from where it stands in the tree."""

    def __init__(self) -> None:
        self.samples = 0
        self.called: Tree = {}


def profile(pid: int, title: str, measure: Callable[[], Measured]) -> None:
    """Sample the process while `measure` puts load on it; then print what a call, or an event, spends where."""
    program = Path(sys.executable).with_name("py-spy")
    with tempfile.NamedTemporaryFile(suffix=".txt") as samples:
        options = ["-p", str(pid), "-r", str(SAMPLES_PER_S), "-d", "600", "-f", "raw", "-o", samples.name]
        # On any core: on the load's it would wait for the load.
        anywhere = ["taskset", "-c", f"0-{(os.cpu_count() or 1) - 1}", str(program)]
        recorder = subprocess.Popen(
            [*anywhere, "record", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            cost_us = measure()["cpu_us"]
        finally:
            recorder.send_signal(2)  # it writes what it has
            recorder.wait()
        root = tree(Path(samples.name).read_text())
    print(f"\n{title}: {cost_us:.0f} µs each, {root.samples} samples; µs with all that is called, and (alone)")
    show(root, cost_us / max(1, root.samples), max(1, root.samples * SMALLEST))


def tree(stacks: str) -> Node:
    """`stacks` is `frame;frame;frame count` per line."""
    root = Node()
    for stack, _, count in (line.rpartition(" ") for line in stacks.splitlines()):
        if IDLE in stack:
            continue
        at = root
        at.samples += int(count)
        for frame in stack.split(";"):
            at = at.called.setdefault(_function(frame), Node())
            at.samples += int(count)
    return root


def _function(frame: str) -> str:
    found = _FRAME.fullmatch(frame)
    return f"{found[1]} ({_PREFIX.sub('', found[2])})" if found else frame


def show(node: Node, us: float, least: float, depth: int = 0) -> None:
    """Print what `node` calls, the dearest first; a chain of functions that do nothing themselves is one line."""
    for name, called in sorted(node.called.items(), key=lambda item: -item[1].samples):
        if called.samples < least:
            continue
        at, last = called, name
        while len(at.called) == 1 and (only := next(iter(at.called.items())))[1].samples >= 0.97 * called.samples:
            last, at = only
        alone = called.samples - sum(each.samples for each in at.called.values())
        chain = f" … {last}" if last != name else ""
        print(f"{'  ' * depth}{called.samples * us:6.1f} ({alone * us:.1f}) {name}{chain}"[:150])
        show(at, us, least, depth + 1)
