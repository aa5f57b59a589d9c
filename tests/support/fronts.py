"""nginx before a gateway, with deploy/nginx.conf as it ships: only addresses and the certificate change."""

import re
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import requests

from support.gateways import ROOT, free_port
from support.servers import Server, needs, nginx

CONF = ROOT / "deploy" / "nginx.conf"


@dataclass
class Front:
    """nginx before a gateway. `port` speaks what `tls_port` does, without TLS: for clients made of sockets."""

    port: int
    tls_port: int
    redirect_port: int
    certificate: Path
    server: Server

    def post(self, path, body=None, **kwargs):
        """For `hear`: as a Gateway does."""
        return requests.post(f"http://127.0.0.1:{self.port}{path}", json=body, **{"timeout": 30, **kwargs})

    def log_text(self):
        return self.server.log_text()


@contextmanager
def front(gateway_socket, hosts=()):
    """The shipped file, its gateway at this Unix socket, or at these ports."""
    ports = free_port(), free_port(), free_port()
    with TemporaryDirectory(prefix="certificate-") as home:
        certificate = certificate_in(Path(home))
        text = shipped(gateway_socket, *ports, certificate)
        with nginx(with_several(text, hosts) if hosts else text, ports) as server:
            yield Front(*ports, certificate, server)


def with_several(text, hosts):
    """With the file's own lines for several hosts, these ports in their places."""
    text = re.sub(r"server unix:\S+;", "", text)
    for place, port in enumerate(hosts, 11):
        text = re.sub(rf"# (server 10\.0\.0\.{place}:8000)", r"\1", text)
        text = text.replace(f"10.0.0.{place}:8000", f"127.0.0.1:{port}")
    return text.replace("# least_conn;", "least_conn;")


def shipped(gateway_socket, port, tls_port, redirect_port, certificate):
    text = CONF.read_text()
    for theirs, ours in {
        "listen 80;": f"listen 127.0.0.1:{redirect_port};",
        "listen [::]:80;": "",
        "listen 443 ssl;": f"listen 127.0.0.1:{tls_port} ssl;",
        "listen [::]:443 ssl;": f"listen 127.0.0.1:{port};",
        "/etc/ssl/chatapi/fullchain.pem": str(certificate),
        "/etc/ssl/chatapi/privkey.pem": str(certificate.with_name("key.pem")),
        "unix:/run/chatapi/chatapi.sock": f"unix:{gateway_socket}",
        "/var/log/nginx/": "",
    }.items():
        assert theirs in text, f"{theirs!r} is no longer in {CONF.name}"
        text = text.replace(theirs, ours)
    return text


def certificate_in(home):
    certificate = home / "certificate.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(home / "key.pem"), "-out", str(certificate)]
    new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([needs("openssl"), *new, *names, *files], check=True, capture_output=True)
    return certificate


@contextmanager
def socket_path():
    """Where a Unix socket can be: their paths are short."""
    with TemporaryDirectory(prefix="s-") as home:
        yield Path(home, "chatapi.sock")
