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
from ...languages import N_, _
from .findings import AGENT, DOCTOR, Finding, Progress, Result, setting
from .machine import CONFIG, WORKER
from .reaching import describe, explain, fetch, fix_address, parse_object

DEFAULT_URL = "http://127.0.0.1:8000"
QUICK_S = 10.0  # for what the gateway answers at once
BODY_S = 60.0  # for a body of CHATAPI_MAX_BODY
EVENTS, EVERY_S = 5, 0.3  # the stream whose pieces are timed
LEFT_EVERY_S, LEFT_S = 0.1, 10.0  # the stream, and the silence, that are left before their end
STAY_S = 0.5  # and as long as two ways there and back
NOTED_S = 3.0  # a worker sees at once that its caller has left

_REFUSED = (N_("the key is not accepted"), "flask --app wsgi keys list")
_DOWN = (
    N_("what stands in front is there, the gateway behind it is down or somewhere else"),
    "systemctl status chatapi\nnginx: proxy_pass http://127.0.0.1:8000;",
)
_OLD = (N_("an older chatapi runs there"), "systemctl restart chatapi")
_ANOTHER = (N_("that is no chatapi"), "nginx: location / { proxy_pass http://127.0.0.1:8000; }")
# Status of an answer that is no probe's → what it means, and the line to change.
_STATUSES = {401: _REFUSED, 403: _REFUSED, 502: _DOWN, 503: _DOWN, 504: _DOWN}


class Front:
    """The gateway at `url`. The Hugging Face token is never sent there, and the gateway key nowhere else."""

    def __init__(self, parts: Components, url: str | None, key: str | None) -> None:
        self._store = parts.store
        self._settings = parts.settings
        self._given = url is not None
        self._url = url or DEFAULT_URL
        self._key = key
        self._transport = Transport(key, AGENT)
        self._probe: Json = {}  # what the gateway has told of itself
        self._server = ""
        self._trip_s = 0.0  # there and back, at the first time
        self.open_files: int | None = None  # how many the running gateway may open

    def check(self, slow: bool, progress: Progress, notes: bool = True) -> Iterator[Finding]:
        """Whether it is there, and then all that may be wrong on the way to it. `notes`: the database can be used."""
        yield Finding("gateway", *self._check_gateway(uuid.uuid4().hex if notes else ""))
        if not self._probe:
            return
        yield Finding("worker", *self._check_worker())
        if not (self._is_local or self._settings.auth == "required"):
            yield Finding("auth", *self._check_admission())
        yield Finding("forwarding", *self._check_forwarding())
        for name, tried, check in (
            ("streams", "buffering", self._check_buffering),
            ("aborts", "aborts", self._check_aborts),
            ("bodies", "body limit", self._check_body_limit),
        ):
            progress(f"{self._url}: {tried}")
            yield Finding(name, *check())
        progress(_("{url}: a silence of {seconds:g} s", url=self._url, seconds=self._silence_s))
        yield Finding("timeouts", *(self._check_timeouts() if slow else self._skip_timeouts()))

    def _get(self, query: str, seconds: float = QUICK_S, transport: Transport | None = None) -> Answer:
        return fetch(transport or self._transport, Request(f"{self._url}/v1/probe?{query}"), seconds)

    # --- is it there?

    def _check_gateway(self, note: str) -> Result:
        if note:
            self._store.write(lambda tx: statements.put_meta(tx, f"probe:{note}", str(int(time.time()))))
        began = time.monotonic()
        try:
            answer = self._get(f"note={note}")
        except UpstreamError as error:
            message, instead = explain(self._url, error, self._transport)
            fix = fix_address(instead, f"{DOCTOR} --url {{}}", f"gunicorn wsgi:app\n{DOCTOR} --url URL")
            # Where no URL was given, nobody has said that it must be running.
            return False if self._given else None, f"{self._url}: {message}", fix
        finally:
            self._forget(note)
        found = parse_object(answer) or {}
        if answer.status != 200 or found.get("object") != "probe":
            return self._explain_answer(answer, found.get("error"))
        self._probe, self._server = found, answer.headers.get("Server", "")
        self._trip_s = time.monotonic() - began
        self.open_files = found["open_files"]
        return True, _("answers at {url}", url=self._url), ""

    def _explain_answer(self, answer: Answer, error: Any) -> Result:
        """What answers in the place of a gateway."""
        message = _("{url} answers {status}", url=f"{self._url}/v1/probe", status=answer.status)
        if answer.status == 401 and self._key is None:
            message += ": " + _("a key is needed, so nothing was tried there")
            return None, message, f"{DOCTOR} --url {self._url} --key KEY"
        if 300 <= answer.status < 400:
            to = answer.headers.get("Location", "").partition("/v1/probe")[0]
            return False, message, f"{DOCTOR} --url {to or 'URL'}"
        is_old = isinstance(error, dict) and error.get("code") == "not_found"
        meaning, fix = _STATUSES.get(answer.status) or (_OLD if is_old else _ANOTHER)
        return False, f"{message}: {_(meaning)}", fix

    def _check_worker(self) -> Result:
        if self._probe["watched"]:
            return True, _("notices callers who leave"), ""
        message = _("does not run under gevent: it answers one caller at a time")
        return False, message, f'{CONFIG}: worker_class = "{WORKER}"'

    # --- who is let in, and as whom

    def _check_admission(self) -> Result:
        required = setting("CHATAPI_AUTH", "required")
        if self._settings.auth == "off":
            return None, _("everybody is let in (CHATAPI_AUTH=off)"), required
        try:
            open_to_all = self._get("", transport=Transport(None, AGENT)).status == 200
        except UpstreamError as error:
            return None, _("could not be tried: {error}", error=describe(error)), DOCTOR
        if not open_to_all:
            return True, _("callers without a key are refused"), ""
        message = _("{url} lets everybody in without a key: the proxy makes all callers look local", url=self._url)
        return False, message, required

    @property
    def _is_direct(self) -> bool:
        """Whether nothing is seen to stand between; nginx, for one, puts its own name into `Server`."""
        as_sent = self._probe["host"] == urlsplit(self._url).netloc and not self._probe["forwarded_for"]
        return as_sent and self._server.startswith("gunicorn")

    @property
    def _is_local(self) -> bool:
        """Whether this is a program on the gateway's machine, which needs no key under `auto`."""
        return self._is_direct and is_local("127.0.0.1", {"HTTP_HOST": urlsplit(self._url).netloc})

    def _check_forwarding(self) -> Result:
        proxies, entries = self._settings.trusted_proxies, self._probe["forwarded_for"]
        address, scheme = self._probe["address"], self._probe["scheme"]
        if self._is_direct:
            well = self._is_local and not proxies
            message = _("nothing seems to stand before {url}", url=self._url)
            return well or None, message, "" if well else f"{DOCTOR} --url URL"
        text = N_("{count} addresses in X-Forwarded-For, CHATAPI_TRUSTED_PROXIES={proxies}")
        message = _(text, count=entries, proxies=proxies)
        if entries < proxies or not entries:
            message += ": " + _("a caller's address is not known, or is what the caller says")
            return False, message, "nginx: proxy_set_header X-Forwarded-For $remote_addr;"
        if entries > proxies:
            message += ": " + _("all callers look like {address}", address=address)
            return False, message, setting("CHATAPI_TRUSTED_PROXIES", entries)
        if scheme != urlsplit(self._url).scheme:
            message = _("the gateway believes that it is called over {scheme}", scheme=scheme)
            return False, message, "nginx: proxy_set_header X-Forwarded-Proto $scheme;"
        return True, _("the gateway sees {address}, {scheme}", address=address, scheme=scheme), ""

    # --- what becomes of streams

    @property
    def _longest_s(self) -> float:
        """How long a probe may take."""
        return self._settings.max_time_s + self._settings.heartbeat_s

    def _check_buffering(self) -> Result:
        every_s, fix = min(EVERY_S, self._longest_s / EVENTS), "nginx: proxy_buffering off;"
        try:
            head, body, arrived = self._time_events(every_s)
        except UpstreamError as error:
            return False, _("a stream was not finished: {error}", error=describe(error)), fix
        if not body.endswith(b"data: [DONE]\n\n"):
            return False, _("a stream was answered {status}, or cut", status=head.response.status), fix
        spread_s, sent_s = arrived[-1] - arrived[0], (EVENTS - 1) * every_s
        if spread_s > sent_s / 2:
            return True, _("events arrive one by one"), ""
        text = N_("events sent over {sent:.1f} s arrive within {spread:.1f} s: something collects them")
        gzip = "\nnginx: gzip off;" if head.response.headers.get("Content-Encoding") else ""
        return False, _(text, sent=sent_s, spread=spread_s), fix + gzip

    def _time_events(self, every_s: float) -> tuple[Exchange, bytes, list[float]]:
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

    def _check_aborts(self) -> Result:
        if not self._probe["noted"]:
            message = _("not tried: the gateway there uses another database than this command")
            return None, message, setting("DATABASE_URL", "sqlite:////var/lib/chatapi/chatapi.db")
        events = min(100, int(self._longest_s / LEFT_EVERY_S))
        kinds = {_("a stream"): f"events={events}&every_s={LEFT_EVERY_S}"}
        if self._probe["watched"]:  # by other workers a caller is missed only when they write to him
            kinds[_("an answer")] = f"silence_s={min(LEFT_S, self._longest_s)}"
        try:
            unseen = ", ".join(kind for kind, query in kinds.items() if not self._leave_early(query))
        except UpstreamError as error:
            return None, _("not tried: {error}", error=describe(error)), DOCTOR
        if not unseen:
            return True, _("a caller who leaves ends the call"), ""
        message = _("a caller who leaves is hidden from the gateway ({what}): the call goes on, and costs", what=unseen)
        return False, message, "nginx: proxy_ignore_client_abort off;"

    def _leave_early(self, query: str) -> bool:
        """Whether the gateway notices that we leave, after two events or a moment."""
        note, body = uuid.uuid4().hex, b""
        call = Call("-", seconds=STAY_S + 2 * self._trip_s)
        request = Request(f"{self._url}/v1/probe?{query}&note={note}")
        with suppress(UpstreamTimeout), closing(self._transport.open(request, call, call.deadline)) as exchange:
            while body.count(b"data: ") < 2 and (data := exchange.read(call.deadline)):
                body += data
        deadline = time.monotonic() + NOTED_S
        while time.monotonic() < deadline:
            if self._store.read(lambda tx: statements.get_meta(tx, f"probe:{note}")):
                self._forget(note)
                return True
            time.sleep(0.1)
        return False

    def _forget(self, note: str) -> None:
        if note:
            with suppress(StoreUnavailable):  # the gateway forgets it when it notes the next one
                self._store.write(lambda tx: statements.drop_meta(tx, f"probe:{note}"))

    # --- what is too large or too late

    def _check_body_limit(self) -> Result:
        size = self._settings.max_body
        fix = f"nginx: client_max_body_size {math.ceil(size / 2**20 * 1.25)}m;"
        payload = {"doctor": ""}  # no chat request: it is refused before a model is asked
        payload["doctor"] = "x" * (size - len(json.dumps(payload, separators=(",", ":"))))
        try:
            status = fetch(self._transport, Request(f"{self._url}/v1/chat/completions", payload), BODY_S).status
        except UpstreamError as error:
            return False, _("a body of {size} bytes was not taken: {error}", size=size, error=describe(error)), fix
        if status == 400:
            return True, _("{size} bytes are let through", size=size), ""
        text = N_("a body of {size} bytes is answered {status} in place of 400")
        if status == 413:
            text = N_("a body of {size} bytes (CHATAPI_MAX_BODY) is refused on the way")
        return False, _(text, size=size, status=status), fix

    @property
    def _silence_s(self) -> float:
        """As long as a whole answer may take, and the moment in which the gateway says that it took too long."""
        return self._settings.max_time_s + min(1.0, self._settings.heartbeat_s)

    def _skip_timeouts(self) -> Result:
        seconds = self._settings.max_time_s
        message = _("not tried: it takes a silence of {seconds:g} s (CHATAPI_MAX_TIME)", seconds=seconds)
        return None, message, f"{DOCTOR} --url {self._url} --slow"

    def _check_timeouts(self) -> Result:
        seconds, began = self._silence_s, time.monotonic()
        try:
            answer = self._get(f"silence_s={seconds}", seconds + QUICK_S)
            if answer.status == 200:
                return True, _("{seconds:g} s of silence are waited for", seconds=seconds), ""
            end = _("answered {status}", status=answer.status)
        except UpstreamError as error:
            end = describe(error)
        text = N_("a silence of {seconds:g} s is ended after {after:.0f} s: {said}")
        message = _(text, seconds=seconds, after=time.monotonic() - began, said=end)
        return False, message, f"nginx: proxy_read_timeout {math.ceil(self._settings.max_time_s) + 10}s;"
