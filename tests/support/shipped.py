"""What is shipped beside the code, as tests of deploy/ look at it: the image, gunicorn's settings, the metrics."""

import functools
import re
import runpy
from typing import Any

from chatapi import telemetry
from chatapi.settings import FIELDS
from support.gateways import CONFIG, ROOT

# The first is read by gunicorn.conf.py, the others by Python and whatever starts it.
SETTINGS = {*FIELDS, "WEB_CONCURRENCY", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PATH"}


@functools.cache
def gunicorn_settings() -> dict[str, Any]:
    return runpy.run_path(str(CONFIG))


def _instructions() -> list[tuple[str, str]]:
    """(instruction, the rest) of each line of the Containerfile, continued lines joined."""
    text = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1].strip()) for line in text.splitlines() if line.strip()]


IMAGE = _instructions()


def last(name: str) -> str:
    return [rest for instruction, rest in IMAGE if instruction == name][-1]


def exported(client: Any) -> dict[str, set[str] | None]:
    """Metric → its labels, or None where a collector of our own makes them up."""
    # Prometheus' library offers no way to ask; its private table is the same in every version that we may meet.
    table = telemetry.metrics._registry._names_to_collectors
    known = {name: set(getattr(collector, "_labelnames", ())) for name, collector in table.items()}
    shown = re.findall(r"^# TYPE (\S+)", client.get("/metrics").text, re.MULTILINE)
    return {**dict.fromkeys(shown), **known}
