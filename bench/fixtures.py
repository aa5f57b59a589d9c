"""What only one scenario needs: a large database, PostgreSQL and Redis, nginx in front, an https upstream."""

import contextlib
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from load import LoadError, Measured, calls, connect
from servers import LOAD_CORE, ROOT, SERVER_CORE, Server, Upstream, free_port, gateway, nginx

sys.path += [str(ROOT), str(ROOT / "tests")]
from support import servers as real

CALL_EVERY_S = 3  # ten million of them are a year
# Column → what row number `i` of so many copies of the row `t` has in it; all other columns are as in `t`.
KEY = {"id": "printf('k%09d', i)", "digest": "lower(hex(randomblob(32)))", "name": "'copy ' || i"}
CALL = {
    "id": f"t.id - (:rows - i + 1) * {CALL_EVERY_S} * 1000000 * 4096",  # microseconds and 12 bits
    "request_id": "lower(hex(randomblob(16)))",
    "started_at": f"t.started_at - (:rows - i + 1) * {CALL_EVERY_S}",
    "until": f"t.until - (:rows - i + 1) * {CALL_EVERY_S}",
    "key_id": "printf('k%09d', i % 50)",
}
USAGE = {"key_id": "printf('k%09d', i % 50)", "day": "date('now', '-' || (i / 50) || ' days')"}
DAYS = 365


@contextlib.contextmanager
def database(up: Upstream, keys: int, rows: int) -> Iterator[str]:
    """The URL of a database with so many keys and ended calls: copies of a key and a call that the gateway made."""
    with tempfile.TemporaryDirectory(prefix="bench-database-") as folder:
        path = Path(folder, "chatapi.db")
        url = f"sqlite:///{path}"
        with gateway(up, DATABASE_URL=url) as server:
            calls(server, 1, 1)
            await_call(path)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            multiply(connection, "keys", KEY, keys)
            multiply(connection, "calls", CALL, rows)
            multiply(connection, "usage", USAGE, min(rows, DAYS * 50))
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield url


def await_call(path: Path) -> None:
    """Until a call stands in the ledger as ended."""
    deadline = time.monotonic() + 10
    with contextlib.closing(sqlite3.connect(path)) as connection:
        while time.monotonic() < deadline:
            if connection.execute("SELECT 1 FROM calls WHERE ending = 'completed'").fetchone():
                return
            time.sleep(0.1)
    raise RuntimeError("no call reached the ledger")


def multiply(connection: sqlite3.Connection, table: str, changed: dict[str, str], rows: int) -> None:
    """Add so many copies of a table's first row."""
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    if missing := changed.keys() - set(columns):
        raise RuntimeError(f"the table {table} has no columns {missing}")
    values = ", ".join(changed.get(column, f"t.{column}") for column in columns)
    connection.execute(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)"
        f" INSERT INTO {table} SELECT {values} FROM n, (SELECT * FROM {table} LIMIT 1) AS t WHERE :rows",
        {"rows": rows},
    )


def usage_ms(server: Server) -> float:
    """How long `GET /v1/usage` takes: the median of twenty."""
    took = []
    with contextlib.closing(connect(server)) as connection:
        for _ in range(20):
            began = time.perf_counter()
            connection.request("GET", "/v1/usage", headers=server.headers)
            answer = connection.getresponse()
            answer.read()
            took.append(time.perf_counter() - began)
            if answer.status != 200:
                raise LoadError(f"GET /v1/usage answered {answer.status}")
    return statistics.median(took) * 1000


@contextlib.contextmanager
def stores(up: Upstream) -> Iterator[dict[str, Server]]:
    """A gateway on SQLite and one on PostgreSQL, each without and with Redis; both servers are on the load's core."""
    with contextlib.ExitStack() as stack:
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {LOAD_CORE})  # what is started inherits it
        postgres, redis = stack.enter_context(real.postgres()), stack.enter_context(real.redis())
        os.sched_setaffinity(0, cores)
        found = {}
        for name, database in {"SQLite": {}, "PostgreSQL": {"DATABASE_URL": postgres}}.items():
            found[name] = stack.enter_context(gateway(up, **database))
            found[f"{name} + Redis"] = stack.enter_context(gateway(up, **database, REDIS_URL=redis.url))
        yield found


# What matters of deploy/nginx.conf, without TLS.
FRONT = """
  upstream chatapi {{ server unix:{socket}; keepalive 64; keepalive_timeout 1s; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header X-Request-Id $request_id;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_buffering off;
    location / {{ proxy_pass http://chatapi; }}
  }}
"""


class Front(Server):
    """nginx, whose CPU is counted with the gateway's behind it."""

    behind: Server

    def cpu_us(self) -> float:
        return super().cpu_us() + self.behind.cpu_us()


@contextlib.contextmanager
def behind_nginx(up: Upstream) -> Iterator[tuple[Server, Server]]:
    """A gateway that listens on a port and on a unix socket, and nginx in front of the socket; both on one core."""
    with tempfile.TemporaryDirectory(prefix="bench-socket-") as folder:
        socket, port = f"{folder}/chatapi.sock", free_port()
        http = FRONT.format(socket=socket, port=port)
        with (
            gateway(up, "-b", f"unix:{socket}", CHATAPI_TRUSTED_PROXIES="1") as server,
            nginx("nginx in front", http, port, SERVER_CORE, kind=Front) as front,
        ):
            front.headers, front.behind = server.headers, server
            yield server, front


TLS = """
  log_format handshakes '$connection $ssl_session_reused';
  upstream paced {{ server 127.0.0.1:{paced}; keepalive 2048; }}
  server {{
    listen 127.0.0.1:{port} ssl backlog=4096;
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.key;
    ssl_session_cache shared:tls:10m;
    access_log {folder}/handshakes handshakes;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_buffering off;
    location / {{ proxy_pass http://paced; }}
  }}
"""
# An authority of our own, and what it has signed for 127.0.0.1.
CERTIFICATES = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=bench authority" \
  -keyout ca.key -out ca.pem
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=127.0.0.1" -keyout server.key -out server.csr
printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > extensions
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.pem
"""


@dataclass(frozen=True)
class TlsUpstream:
    """An upstream with a TLS port, the CA file that vouches for it, and nginx's log of handshakes."""

    up: Upstream
    authority: Path
    log: Path

    def handshakes(self) -> dict[str, str]:
        """Connection → `r` where its session was resumed, `.` where it was new."""
        return dict(line.split() for line in self.log.read_text().splitlines())

    def count_handshakes(self, measure: Callable[[], Measured]) -> Measured:
        """What `measure` returns, and the connections that were opened meanwhile: `connections`, `resumed`."""
        before = self.handshakes()
        found = measure()
        new = [reused for connection, reused in self.handshakes().items() if connection not in before]
        return {**found, "connections": len(new), "resumed": new.count("r")}


@contextlib.contextmanager
def tls_upstream(up: Upstream) -> Iterator[TlsUpstream]:
    """The paced upstream behind TLS, as model `bench/tls`."""
    with tempfile.TemporaryDirectory(prefix="bench-tls-") as folder:
        subprocess.run(["sh", "-ec", CERTIFICATES], cwd=folder, check=True, capture_output=True)
        port = free_port()
        http = TLS.format(paced=up.paced, port=port, folder=folder)
        with nginx("tls", http, port, LOAD_CORE):
            yield TlsUpstream(replace(up, tls=port), Path(folder, "ca.pem"), Path(folder, "handshakes"))
