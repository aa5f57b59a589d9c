"""Call: who asked for what, until when, what became of it, and its one end."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any

from gevent import get_hub, getcurrent, spawn_later

from .caller import Caller
from .chat import Usage
from .errors import (
    AccessError,
    BadRequest,
    ChatError,
    ClientLeft,
    InternalError,
    ModelNotFound,
    UpstreamRejected,
    UpstreamTimeout,
    WorkerStopped,
    forget_frames,
)
from .languages import LANGUAGES

MAX_UPSTREAM_REQUESTS = 8  # of one call, whatever its fallbacks
WAITING = "waiting for the model"
# How a call ends; `failed` is a fault of ours.
ENDINGS = ("completed", "client_left", "upstream_cut", "deadline", "refused", "worker_lost", "failed")
_FIRST_DAY = 1_767_225_600  # 2026-01-01, in Unix seconds


@dataclass(slots=True, weakref_slot=True, eq=False, repr=False)
class Call:
    """One request of a caller, from its head's arrival to the last byte of its answer.

    Whatever works for it runs in one greenlet and blocks. What comes from outside (the caller has left, the worker
    stops) is `interrupt`, which raises in that greenlet where it waits for an upstream. Times: `began`, `deadline`
    and `first_byte_at` are monotonic seconds, `started_at` and `lease_ends_at` Unix seconds, the others
    milliseconds since its arrival.
    """

    request_id: str
    route: str = "-"
    dialect: str = ""
    seconds: InitVar[float] = 120.0
    headers: Mapping[str, str] = field(default_factory=dict)  # that go along to the upstream
    key_id: str | None = None
    caller: Caller | None = None
    address: str | None = None  # the caller's, as far as proxies are trusted
    connection: Any = None  # the caller's, under a worker of ours
    trace_id: str | None = None
    language: str = LANGUAGES[0]  # that it is answered in
    model: str | None = None
    served: str | None = None  # the model that answered
    stream: bool = False
    first_byte_at: float | None = None
    auth_ms: float | None = None
    limit_ms: float | None = None
    upstream_ms: float = 0.0
    gateway_ms: float | None = None
    first_token_ms: float | None = None
    first_token_model: str | None = None
    total_ms: float | None = None
    fallbacks: int = 0  # models asked in place of the first
    malformed_events: int = 0  # of upstreams; no JSON objects, and skipped
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usage_source: str | None = None
    status: int | None = None
    code: str | None = None
    ending: str | None = None  # one of ENDINGS
    shadowed: tuple[str, ...] | None = None
    decision: Any = None  # of the caller's limits: accounting's, told in RateLimit headers
    reservation: Any = None  # accounting's own
    begun: bool = False  # its row is in the ledger
    left: bool = False
    prompt_owed: bool = False  # an upstream has it, and did not refuse it
    more_ready: bool = False  # the stream's next item needs no waiting
    observers: Sequence[Callable[["Call"], None]] = ()  # of its end
    waiting_for: str = WAITING  # what a heartbeat says
    drain_s: int = 0  # how long the answer of a caller who left is still read, for the ledger
    asked: list[str] = field(default_factory=list)  # the model of each request to an upstream
    id: int = field(init=False)
    began: float = field(init=False)
    started_at: float = field(init=False)
    deadline: float = field(init=False)
    lease_ends_at: float = field(init=False)
    interruption: ChatError | None = None
    waiting: Any = None  # the greenlet, while it waits for an upstream and may be interrupted

    def __post_init__(self, seconds: float) -> None:
        self.began = time.monotonic()
        self.started_at = time.time()
        self.set_deadline(seconds)
        self.id = call_id(self.started_at)

    def set_deadline(self, seconds: float) -> None:
        """It may take so long from its arrival."""
        self.deadline = self.began + seconds
        self.lease_ends_at = self.started_at + seconds

    @property
    def attempts(self) -> int:
        """Requests to upstreams."""
        return len(self.asked)

    @property
    def ended_at(self) -> float:
        """When it ended, in Unix seconds."""
        return self.started_at + (self.total_ms or 0.0) / 1000

    def elapsed_ms(self) -> float:
        """Since its arrival."""
        return round((time.monotonic() - self.began) * 1000, 1)

    # --- waiting, and what ends it

    def pause(self, seconds: float) -> None:
        """Wait so long, or until interrupted."""
        if self.interruption is not None:
            raise self.interruption
        self.waiting = getcurrent()
        try:
            time.sleep(seconds)
        finally:
            self.waiting = None

    def interrupt(self, error: ChatError) -> None:
        """Raise `error` where this call waits, or will wait next. From the same event loop."""
        if self.interruption is None and self.total_ms is None:
            self.interruption = error
            if self.waiting is not None:
                get_hub().loop.run_callback(self.wake, error)

    def wake(self, error: BaseException) -> None:
        """Raise `error` where this call waits just now, if it does. From the event loop itself."""
        if self.waiting is not None:
            self.waiting.throw(error)

    def leave(self) -> None:
        """The caller has closed the connection."""
        if self.left:
            return
        self.left = True
        gone = ClientLeft("The caller closed the connection.")
        if self.drain_s:
            self.deadline = min(self.deadline, time.monotonic() + self.drain_s)
            spawn_later(self.drain_s, self.interrupt, gone)
        else:
            self.interrupt(gone)

    # --- what becomes of it

    def answered_by(self, model: str) -> None:
        """`model` has begun to answer."""
        self.served = model
        if self.first_token_ms is None:
            self.first_token_ms, self.first_token_model = self.elapsed_ms(), model

    def count(self, usage: Usage) -> None:
        """So many tokens were used."""
        self.prompt_tokens, self.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        self.usage_source = usage.source

    def fail(self, error: ChatError) -> None:
        """It ends with `error`; the first one counts, and none of a call that is only read on for the ledger.

        Where `error` was raised is not kept: the frames there hold it and all that the call held, in a circle.
        """
        forget_frames(error)
        if self.ending is None and not (self.left and not isinstance(error, ClientLeft)):
            self.code, self.ending = error.code, _ending(error, self.attempts)

    def end(self, ending: str = "completed") -> None:
        """It is over: those who keep account of calls hear of it, once."""
        if self.total_ms is not None:
            return
        self.ending = "client_left" if self.left else self.ending or ending
        self.total_ms = self.elapsed_ms()
        for observe in self.observers:
            observe(self)


def _ending(error: ChatError, attempts: int) -> str:
    ours = isinstance(error, ModelNotFound) and not attempts  # no upstream has said so
    if ours or isinstance(error, BadRequest | AccessError | UpstreamRejected):
        return "refused"
    if isinstance(error, ClientLeft):
        return "client_left"
    if isinstance(error, UpstreamTimeout):
        return "deadline"
    if isinstance(error, WorkerStopped):
        return "worker_lost"
    return "failed" if isinstance(error, InternalError) else "upstream_cut"


def call_id(at: float, salt: int | None = None) -> int:
    """An id for a call that begins at `at` (Unix seconds), later ones larger; 63 bits, until the year 2097."""
    since = min(max(0, int((at - _FIRST_DAY) * 1e6)), 2**51 - 1)
    return since << 12 | (random.getrandbits(12) if salt is None else salt)
