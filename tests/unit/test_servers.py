"""The servers that other tests stand on: they start, answer, and leave nothing behind."""

import os
import signal
import subprocess
import sys
from tempfile import TemporaryDirectory

import psutil
import pytest
import requests
from support.gateways import ROOT, free_port
from support.heard import wait_until
from support.servers import listens, needs, nginx, nginx_check, postgres, redis


def page(port):
    return f"events {{}}\nhttp {{ server {{ listen 127.0.0.1:{port}; return 200 here; }} }}\n"


def test_postgres_is_a_database():
    sqlalchemy = pytest.importorskip("sqlalchemy")
    with postgres() as url:
        engine = sqlalchemy.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("create table kept (n bigint)")
            connection.exec_driver_sql("insert into kept values (7)")
        with engine.connect() as connection:
            assert connection.exec_driver_sql("select n from kept").scalar() == 7
        engine.dispose()
        port = engine.url.port
    assert not listens(port)


def test_redis_can_be_gone_for_a_while():
    client_of = pytest.importorskip("redis").Redis.from_url
    with redis() as store:
        with client_of(store.url) as client:
            client.set("kept", "7")
            assert client.get("kept") == b"7"
        store.stop()
        port = int(store.url.rpartition(":")[2].partition("/")[0])
        assert not listens(port)
        store.start()
        with client_of(store.url) as client:
            assert client.get("kept") is None
    assert not listens(port)


def test_nginx_serves():
    port = free_port()
    with nginx(page(port), [port]):
        assert requests.get(f"http://127.0.0.1:{port}", timeout=10).text == "here"
    assert not listens(port)


def test_nginx_says_what_is_wrong():
    assert nginx_check(page(80)).returncode == 0
    wrong = nginx_check("events {}\nhttp { nonsense; }\n")
    assert wrong.returncode != 0
    assert 'unknown directive "nonsense"' in wrong.stderr


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
