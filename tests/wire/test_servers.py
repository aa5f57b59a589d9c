"""The servers that other tests stand on leave nothing behind."""

import os
import signal
import subprocess
import sys
from tempfile import TemporaryDirectory

import psutil
import pytest
from support.gateways import ROOT, free_port
from support.heard import wait_until
from support.servers import needs


def page(port):
    return f"events {{}}\nhttp {{ server {{ listen 127.0.0.1:{port}; return 200 here; }} }}\n"


def test_a_missing_program_skips_and_fails_in_ci(monkeypatch):
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="no-such-program is not installed"):
        needs("no-such-program")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no-such-program is not installed"):
        needs("no-such-program")


ORPHANS = """
import sys, time
from support.servers import nginx, postgres, redis
port = int(sys.argv[1])
with postgres(), redis(), nginx(sys.argv[2], [port]):
    print("running", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nobody tells a process of its parent's end")
def test_no_server_outlives_a_killed_test():
    for program in ("initdb", "redis-server", "nginx"):
        needs(program)
    port, paths = free_port(), os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    with TemporaryDirectory() as left_behind:
        os.chmod(left_behind, 0o755)  # PostgreSQL's user goes through it
        env = {**os.environ, "PYTHONPATH": paths, "TMPDIR": left_behind}
        command = [sys.executable, "-c", ORPHANS, str(port), page(port)]
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as killed:
            assert killed.stdout.readline() == b"running\n"
            family = psutil.Process(killed.pid).children(recursive=True)
            assert len(family) >= 4
            killed.send_signal(signal.SIGKILL)
        assert wait_until(lambda: not any(alive(member) for member in family), 20)


def alive(process):
    """A zombie is not: nobody may be there to bury it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
