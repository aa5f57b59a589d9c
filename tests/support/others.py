"""What one caller costs the others: how long they wait meanwhile, and what the gateway's worker takes for it."""

import re
import threading
import time
from pathlib import Path

import psutil
import requests

from support.dialects import V1, asking


class Others:
    """Meanwhile others ask again and again, for /healthz and (unless told otherwise) for a small call.

    `answered` of them so far, the slowest after `slowest_s`. None may wait for `wait_s`, where that is given.
    """

    def __init__(self, gateway, wait_s=None, small_calls=True):
        self._url, self._wait_s, self._small_calls = gateway.url, wait_s, small_calls
        self._ended, self._failure = threading.Event(), None
        self.answered, self.slowest_s = 0, 0.0
        self._asking = threading.Thread(target=self._ask)

    def _ask(self):
        try:
            with requests.Session() as session:
                session.trust_env = False
                while not self._ended.is_set():
                    began = time.monotonic()
                    assert session.get(self._url + "/healthz", timeout=60).status_code == 200
                    if self._small_calls:
                        assert session.post(self._url + V1, json=asking(V1, "test/ok"), timeout=60).status_code == 200
                    self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                    self.answered += 1
                    time.sleep(0.02)
        except (AssertionError, requests.RequestException) as error:
            self._failure = error

    def __enter__(self):
        self._asking.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._asking.join()
        if self._failure:
            raise self._failure
        print(f"{self.answered} others, the slowest after {self.slowest_s:.2f} s")
        if self._wait_s:
            assert self.answered and self.slowest_s < self._wait_s


class Worker:
    """The gateway's one worker: what it takes while this is open, in `cpu_s` and `memory_mb`."""

    def __init__(self, gateway):
        [self.pid] = gateway.workers()
        self._process = psutil.Process(self.pid)

    def __enter__(self):
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # its peak begins anew
        self._before_mb, self._before_s = self._peak_mb(), self._cpu_s()
        return self

    def __exit__(self, *_):
        self.cpu_s, self.memory_mb = self._cpu_s() - self._before_s, self._peak_mb() - self._before_mb

    def _cpu_s(self):
        times = self._process.cpu_times()
        return times.user + times.system

    def _peak_mb(self):
        return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())[1]) / 1024
