"""The gateway from outside: what stands before it is tried with streams and silences, without asking a model."""

import json
import math
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlsplit

from ...accounting import statements
from ...accounting.access import is_local
from ...call import Call
from ...chat import Json
from ...components import Components
from ...errors import StoreUnavailable, UpstreamError, UpstreamTimeout
from ...huggingface import Transport
from ...huggingface.exchange import Exchange
from ...huggingface.transport import Answer, Request
from ...languages import _
from .findings import AGENT, DOCTOR, Finding, Progress, setting
from .reaching import asked, explained, object_in, seen

DEFAULT_URL = "http://127.0.0.1:8000"
QUICK_S = 10.0  # for what the gateway answers at once
BODY_S = 60.0  # for a body of CHATAPI_MAX_BODY
EVENTS, EVERY_S = 5, 0.3  # the stream whose pieces are timed
LEFT_EVERY_S, LEFT_S = 0.1, 10.0  # the stream, and the silence, that are left before their end
STAY_S = 0.5  # and as long as two ways there and back
NOTED_S = 3.0  # a worker sees at once that its caller has left


class Front:
    """The gateway at `url`. The Hugging Face token is never sent there, and the gateway key nowhere else."""

    def __init__(self, parts: Components, url: str | None, key: str | None) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._given = url is not None
        self._url = url or DEFAULT_URL
        self._key = key
        self._transport = Transport(key, AGENT)
        self._seen: Json = {}
        self._server = ""
        self._trip_s = 0.0  # there and back, at the first time
        self.open_files: int | None = None  # how many the running gateway may open

    def findings(self, slow: bool, progress: Progress, notes: bool = True) -> Iterator[Finding]:
        """Whether it is there, and then all that may be wrong on the way to it. `notes`: the database can be used."""
        gateway = self._gateway(uuid.uuid4().hex if notes else "")
        yield gateway
        if not self._seen:
            return
        yield from self._worker()
        yield from self._admission()
        yield self._forwarding()
        for check in (self._buffering, self._aborts, self._body_limit):
            progress(f"{self._url}: {check.__name__.strip('_').replace('_', ' ')}")
            yield check()
        progress(_("{url}: a silence of {seconds:g} s", url=self._url, seconds=self._silence_s))
        yield self._timeouts() if slow else self._no_timeouts()

    def _get(self, query: str, seconds: float = QUICK_S, transport: Transport | None = None) -> Answer:
        return asked(transport or self._transport, Request(f"{self._url}/v1/probe?{query}"), seconds)

    # --- is it there?

    def _gateway(self, note: str) -> Finding:
        if note:
            self._parts.store.write(lambda tx: statements.put_meta(tx, f"probe:{note}", str(int(time.time()))))
        began = time.monotonic()
        try:
            answer = self._get(f"note={note}")
        except UpstreamError as error:
            return self._unreached(error)
        finally:
            self._forget(note)
        found = object_in(answer) or {}
        if answer.status == 200 and found.get("object") == "probe":
            self._seen, self._server = found, answer.headers.get("Server", "")
            self._trip_s = time.monotonic() - began
            self.open_files = found["open_files"]
            return Finding("gateway", True, _("answers at {url}", url=self._url))
        return self._no_gateway(answer, found.get("error"))

    def _unreached(self, error: UpstreamError) -> Finding:
        wrong, line = explained(self._url, error, self._transport) or (seen(error), "")
        if "://" in line:
            line = f"{DOCTOR} --url {line}"
        elif line:
            line = f"export {line}"
        # Where no URL was given, nobody has said that it must be running.
        ok = False if self._given else None
        return Finding("gateway", ok, f"{self._url}: {wrong}", line or f"gunicorn wsgi:app\n{DOCTOR} --url URL")

    def _no_gateway(self, answer: Answer, error: Any) -> Finding:
        message = _("{url} answers {status}", url=f"{self._url}/v1/probe", status=answer.status)
        if answer.status == 401 and self._key is None:
            message += ": " + _("a key is needed, so nothing was tried there")
            return Finding("gateway", None, message, f"{DOCTOR} --url {self._url} --key KEY")
        if answer.status in (401, 403):
            return Finding(
                "gateway", False, f"{message}: " + _("the key is not accepted"), "flask --app wsgi keys list"
            )
        if 300 <= answer.status < 400:
            to = answer.headers.get("Location", "").partition("/v1/probe")[0]
            return Finding("gateway", False, message, f"{DOCTOR} --url {to or 'URL'}")
        if answer.status in (502, 503, 504):
            message += ": " + _("what stands in front is there, the gateway behind it is down or somewhere else")
            return Finding(
                "gateway", False, message, "systemctl status chatapi\nnginx: proxy_pass http://127.0.0.1:8000;"
            )
        if isinstance(error, dict) and error.get("code") == "not_found":
            message += ": " + _("an older chatapi runs there")
            return Finding("gateway", False, message, "systemctl restart chatapi")
        line = "nginx: location / { proxy_pass http://127.0.0.1:8000; }"
        return Finding("gateway", False, f"{message}: " + _("that is no chatapi"), line)

    def _worker(self) -> Iterator[Finding]:
        line = 'gunicorn.conf.py: worker_class = "chatapi.operations.worker.Worker"'
        if self._seen["watched"]:
            yield Finding("worker", True, _("notices callers who leave"))
        else:
            yield Finding("worker", False, _("does not run under gevent: it answers one caller at a time"), line)

    # --- who is let in, and as whom

    def _admission(self) -> Iterator[Finding]:
        if self._is_local or self._settings.auth == "required":
            return
        if self._settings.auth == "off":
            message = _("everybody is let in (CHATAPI_AUTH=off)")
            yield Finding("auth", None, message, setting("CHATAPI_AUTH", "required"))
            return
        try:
            open_to_all = self._get("", transport=Transport(None, AGENT)).status == 200
        except UpstreamError as error:
            yield Finding("auth", None, _("could not be tried: {error}", error=seen(error)), DOCTOR)
            return
        if open_to_all:
            message = _("{url} lets everybody in without a key: the proxy makes all callers look local", url=self._url)
            yield Finding("auth", False, message, setting("CHATAPI_AUTH", "required"))
        else:
            yield Finding("auth", True, _("callers without a key are refused"))

    @property
    def _is_direct(self) -> bool:
        """Whether nothing is seen to stand between; nginx, for one, puts its own name into `Server`."""
        as_sent = self._seen["host"] == urlsplit(self._url).netloc and not self._seen["forwarded_for"]
        return as_sent and self._server.startswith("gunicorn")

    @property
    def _is_local(self) -> bool:
        """Whether this is a program on the gateway's machine, which needs no key under `auto`."""
        return self._is_direct and is_local("127.0.0.1", {"HTTP_HOST": urlsplit(self._url).netloc})

    def _forwarding(self) -> Finding:
        proxies, entries = self._settings.trusted_proxies, self._seen["forwarded_for"]
        message = _(
            "{count} addresses in X-Forwarded-For, CHATAPI_TRUSTED_PROXIES={proxies}", count=entries, proxies=proxies
        )
        if self._is_direct:
            message = _("nothing seems to stand before {url}", url=self._url)
            well = self._is_local and not proxies
            return Finding("forwarding", well or None, message, "" if well else f"{DOCTOR} --url URL")
        if entries < proxies or not entries:
            line = "nginx: proxy_set_header X-Forwarded-For $remote_addr;"
            message += ": " + _("a caller's address is not known, or is what the caller says")
            return Finding("forwarding", False, message, line)
        if entries > proxies:
            message += ": " + _("all callers look like {address}", address=self._seen["address"])
            return Finding("forwarding", False, message, setting("CHATAPI_TRUSTED_PROXIES", entries))
        if self._seen["scheme"] != urlsplit(self._url).scheme:
            message = _("the gateway believes that it is called over {scheme}", scheme=self._seen["scheme"])
            return Finding("forwarding", False, message, "nginx: proxy_set_header X-Forwarded-Proto $scheme;")
        seen = {name: self._seen[name] for name in ("address", "scheme")}
        return Finding("forwarding", True, _("the gateway sees {address}, {scheme}", **seen))

    # --- what becomes of streams

    @property
    def _longest_s(self) -> float:
        """How long a probe may take."""
        return self._settings.max_time_s + self._settings.heartbeat_s

    def _buffering(self) -> Finding:
        every_s, line = min(EVERY_S, self._longest_s / EVENTS), "nginx: proxy_buffering off;"
        try:
            head, body, arrived = self._timed(every_s)
        except UpstreamError as error:
            return Finding("streams", False, _("a stream was not finished: {error}", error=seen(error)), line)
        if not body.endswith(b"data: [DONE]\n\n"):
            message = _("a stream was answered {status}, or cut", status=head.status)
            return Finding("streams", False, message, line)
        spread_s, sent_s = arrived[-1] - arrived[0], (EVENTS - 1) * every_s
        if spread_s > sent_s / 2:
            return Finding("streams", True, _("events arrive one by one"))
        gzip = "\nnginx: gzip off;" if head.headers.get("Content-Encoding") else ""
        message = _(
            "events sent over {sent:.1f} s arrive within {spread:.1f} s: something collects them",
            sent=sent_s,
            spread=spread_s,
        )
        return Finding("streams", False, message, line + gzip)

    def _timed(self, every_s: float) -> tuple[Exchange, bytes, list[float]]:
        """A stream, and when each of its events arrived."""
        call = Call("-", seconds=QUICK_S + EVENTS * every_s)
        url = f"{self._url}/v1/probe?events={EVENTS}&every_s={every_s}"
        body, arrived = b"", list[float]()
        # gzip is asked for as browsers and SDKs do, or compressing would not show.
        request = Request(url, headers={"Accept-Encoding": "gzip"})
        with closing(self._transport.open(request, call, call.deadline)) as head:
            while data := head.read(call.deadline):
                body += data
                arrived += [time.monotonic()] * (body.count(b"data: ") - len(arrived))
        return head, body, arrived

    def _aborts(self) -> Finding:
        if not self._seen["noted"]:
            message = _("not tried: the gateway there uses another database than this command")
            return Finding("aborts", None, message, setting("DATABASE_URL", "sqlite:////var/lib/chatapi/chatapi.db"))
        events = min(100, int(self._longest_s / LEFT_EVERY_S))
        kinds = {_("a stream"): f"events={events}&every_s={LEFT_EVERY_S}"}
        if self._seen["watched"]:  # by other workers a caller is missed only when they write to him
            kinds[_("an answer")] = f"silence_s={min(LEFT_S, self._longest_s)}"
        try:
            unseen = [kind for kind, query in kinds.items() if not self._leaves(query)]
        except UpstreamError as error:
            return Finding("aborts", None, _("not tried: {error}", error=seen(error)), DOCTOR)
        if not unseen:
            return Finding("aborts", True, _("a caller who leaves ends the call"))
        message = _(
            "a caller who leaves is hidden from the gateway ({what}): the call goes on, and costs",
            what=", ".join(unseen),
        )
        return Finding("aborts", False, message, "nginx: proxy_ignore_client_abort off;")

    def _leaves(self, query: str) -> bool:
        """Whether the gateway notices that we leave early, after two events or a moment."""
        note, body = uuid.uuid4().hex, b""
        call = Call("-", seconds=STAY_S + 2 * self._trip_s)
        request = Request(f"{self._url}/v1/probe?{query}&note={note}")
        with suppress(UpstreamTimeout), closing(self._transport.open(request, call, call.deadline)) as exchange:
            while body.count(b"data: ") < 2 and (data := exchange.read(call.deadline)):
                body += data
        return self._was_noted(note)

    def _was_noted(self, note: str) -> bool:
        until = time.monotonic() + NOTED_S
        while time.monotonic() < until:
            if self._parts.store.read(lambda tx: statements.get_meta(tx, f"probe:{note}")):
                self._forget(note)
                return True
            time.sleep(0.1)
        return False

    def _forget(self, note: str) -> None:
        if note:
            with suppress(StoreUnavailable):  # the gateway forgets it when it notes the next one
                self._parts.store.write(lambda tx: statements.drop_meta(tx, f"probe:{note}"))

    # --- what is too large or too late

    def _body_limit(self) -> Finding:
        most = self._settings.max_body
        line = f"nginx: client_max_body_size {math.ceil(most / 2**20 * 1.25)}m;"
        payload = {"doctor": ""}  # no chat request: it is refused before a model is asked
        payload["doctor"] = "x" * (most - len(json.dumps(payload, separators=(",", ":"))))
        try:
            answer = asked(self._transport, Request(f"{self._url}/v1/chat/completions", payload), BODY_S)
        except UpstreamError as error:
            return Finding(
                "bodies", False, _("a body of {size} bytes was not taken: {error}", size=most, error=seen(error)), line
            )
        if answer.status == 400:
            return Finding("bodies", True, _("{size} bytes are let through", size=most))
        if answer.status == 413:
            message = _("a body of {size} bytes (CHATAPI_MAX_BODY) is refused on the way", size=most)
            return Finding("bodies", False, message, line)
        message = _("a body of {size} bytes is answered {status} in place of 400", size=most, status=answer.status)
        return Finding("bodies", False, message, line)

    @property
    def _silence_s(self) -> float:
        """As long as a whole answer may take, and the moment in which the gateway says that it took too long."""
        return self._settings.max_time_s + min(1.0, self._settings.heartbeat_s)

    def _no_timeouts(self) -> Finding:
        seconds = self._settings.max_time_s
        message = _("not tried: it takes a silence of {seconds:g} s (CHATAPI_MAX_TIME)", seconds=seconds)
        return Finding("timeouts", None, message, f"{DOCTOR} --url {self._url} --slow")

    def _timeouts(self) -> Finding:
        line = f"nginx: proxy_read_timeout {math.ceil(self._settings.max_time_s) + 10}s;"
        began = time.monotonic()
        try:
            answer = self._get(f"silence_s={self._silence_s}", self._silence_s + QUICK_S)
            if answer.status == 200:
                return Finding("timeouts", True, _("{seconds:g} s of silence are waited for", seconds=self._silence_s))
            said = _("answered {status}", status=answer.status)
        except UpstreamError as error:
            said = seen(error)
        message = _(
            "a silence of {seconds:g} s is ended after {after:.0f} s: {said}",
            seconds=self._silence_s,
            after=time.monotonic() - began,
            said=said,
        )
        return Finding("timeouts", False, message, line)
