"""What the gateway's processes take of the machine, in the names that Prometheus' own client has for one process."""

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Processes:
    """The master and its workers together; where there is no gunicorn, or no /proc, this process or none."""

    def __init__(self, with_parent: bool) -> None:
        self._with_parent = with_parent

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Processor time, memory, open files and the start, summed."""
        try:
            first = os.getppid() if self._with_parent else os.getpid()
            children = (PROC / f"{first}/task/{first}/children").read_text().split() if self._with_parent else []
            boot_s = float((PROC / "stat").read_text().partition("\nbtime ")[2].split()[0])
            master = _stat(first)
        except (OSError, IndexError):
            return
        stats = [master, *(stat for pid in children if (stat := _stat_or_none(pid)))]
        # Of workers that have ended the master holds the time: so the sum never falls.
        ticks = sum(int(stat[11]) + int(stat[12]) for stat in stats) + int(master[13]) + int(master[14])
        yield CounterMetricFamily("process_cpu_seconds", "Processor time of the master and all workers", ticks / _TICKS)
        memory = sum(int(stat[21]) for stat in stats) * _PAGE
        yield GaugeMetricFamily("process_resident_memory_bytes", "Memory; what they share counts for each", memory)
        files = sum(_open_files(pid) for pid in (str(first), *children))
        yield GaugeMetricFamily("process_open_fds", "Open files and connections", files)
        yield GaugeMetricFamily("process_start_time_seconds", "Start of the master", boot_s + int(master[19]) / _TICKS)


def _stat(pid: int | str) -> list[str]:
    """proc(5): the fields of /proc/PID/stat from the third on; the second may hold spaces and brackets."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _stat_or_none(pid: str) -> list[str] | None:
    try:
        return _stat(pid)
    except OSError:  # it has ended
        return None


def _open_files(pid: str) -> int:
    try:
        return len(os.listdir(PROC / pid / "fd"))
    except OSError:
        return 0
