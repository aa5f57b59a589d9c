"""Where a worker's CPU time goes while it is under load: py-spy's samples, summed by function."""

import contextlib
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SAMPLES_PER_S = 400
TOP = 45
IDLE = "acquire_with_timeout ("  # gevent's threads that wait for work
_PREFIX = re.compile(r"^.*/(site-packages|python3\.\d+)/|^.*/(?=chatapi/)")


@contextlib.contextmanager
def profiled(pid: int, title: str) -> Iterator[None]:
    """Sample the process while this is open; then print what it did."""
    program = Path(sys.executable).with_name("py-spy")
    with tempfile.NamedTemporaryFile(suffix=".txt") as samples:
        options = ["-p", str(pid), "-r", str(SAMPLES_PER_S), "-d", "600", "-f", "raw", "-o", samples.name]
        recorder = subprocess.Popen([str(program), "record", *options], stdout=subprocess.DEVNULL)
        try:
            yield
        finally:
            recorder.send_signal(2)  # it writes what it has
            recorder.wait()
        print(f"\n{title}:\n{summary(Path(samples.name).read_text())}")


def summary(stacks: str) -> str:
    """Lines and functions by their share of the samples; `stacks` is `frame;frame;frame count` per line."""
    lines, functions, total = Counter[str](), Counter[str](), 0
    for stack, _, count in (line.rpartition(" ") for line in stacks.splitlines()):
        if IDLE in stack:
            continue
        frames = [_PREFIX.sub("", re.sub(r"\((.*/)", _short, frame)) for frame in stack.split(";")]
        total += int(count)
        lines[frames[-1]] += int(count)
        for function in {re.sub(r":\d+\)$", ")", frame) for frame in frames}:
            functions[function] += int(count)
    rows = [f"{total} samples", "", "share  function, with all that it calls"]
    rows += [f"{n / total:5.1%}  {name}" for name, n in functions.most_common(TOP)]
    rows += ["", "share  line, alone"]
    rows += [f"{n / total:5.1%}  {name}" for name, n in lines.most_common(TOP)]
    return "\n".join(rows)


def _short(found: "re.Match[str]") -> str:
    """A path from its package on."""
    return "(" + _PREFIX.sub("", found[1])
