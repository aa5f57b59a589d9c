"""The doctor on a machine where all is well, until a test changes it: what it finds, by name."""

import ssl
import time
from contextlib import contextmanager
from email.utils import formatdate

import pytest

from chatapi.components import build
from chatapi.operations import doctor
from chatapi.operations.doctor import front
from chatapi.settings import Settings
from support.gateways import ROOT, TOKEN, entry, free_port
from support.sockets import Quiet, serving_http

KEY = "chatapi_doctors-own-key"
ENV_LINE = ".env: "
FIRST = "aaa/first"  # the first in the upstream's list


@pytest.fixture
def settings(upstream, tmp_path):
    """The fault server behind it, a catalogue with one model that works, a database of its own."""
    upstream.behave(FIRST, "ok")
    overlay = tmp_path / "catalogue.toml"
    overlay.write_text(entry("test/ok", 'task = "chat-completion"'))
    return Settings(
        huggingface_api_key=TOKEN,
        huggingface_base_url=upstream.url,
        default_model="test/ok",
        catalogue=overlay,
        database_url=f"sqlite:///{tmp_path}/chatapi.db",
        heartbeat_s=0.3,
    )


@pytest.fixture(autouse=True)
def nobody_at_the_default_url(monkeypatch):
    monkeypatch.setattr(front, "DEFAULT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.chdir(ROOT)


@contextmanager
def parts_of(settings, upgrade=True):
    parts = build(settings)
    if upgrade:
        parts.store.upgrade()
    try:
        yield parts
    finally:
        parts.store.close()


def examined(settings, *args, upgrade=True, **how):
    """Every finding, checked for secrets; by name, the last of each."""
    with parts_of(settings, upgrade) as parts:
        findings = list(doctor.check(parts, *args, **how))
    told = str(findings)
    assert TOKEN not in told and KEY not in told and "hf_" not in told.replace("hf_…", "")
    for finding in findings:
        assert finding.fix or finding.ok, "a finding that is not well says what to do"
    return {finding.name: finding for finding in findings}


def wrong(findings):
    return {name for name, finding in findings.items() if finding.ok is False}


class _Elsewhere(Quiet):
    """Servers that are none of Hugging Face's protocol, by the first part of the path; `v1` is one that is."""

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.answer()

    def answer(self):
        kind = self.server.kind or self.path.split("/")[1]
        if kind == "silent":
            self.close_connection = True
            return
        status, body = {
            "website": (200, b"<!doctype html><title>Welcome</title>"),
            "nothing": (404, b'{"detail":"Not Found"}'),
            "moved": (301, b""),
            "v1": (200, b'{"object":"list","data":[]}'),
        }.get(kind, (404, b"no such page"))
        self.send_response(status)
        if status == 301:
            self.send_header("Location", f"https://other.test{self.path.removeprefix('/moved')}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp=None):
        return formatdate(time.time() + self.server.off_s, usegmt=True)


@contextmanager
def elsewhere(certificate=None, kind="", off_s=0):
    """Such a server, whose clock is off; with a certificate it speaks TLS, with a `kind` it is that at every path.

    Gives its port.
    """
    with serving_http(_Elsewhere) as server:
        server.kind, server.off_s = kind, off_s
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_name("key.pem"))
            server.socket = context.wrap_socket(server.socket, server_side=True)
        yield server.server_port
