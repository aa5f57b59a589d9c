"""The limits of several machines in Redis: one script a step, which reads, decides and changes in one go.

A caller's numbers are a hash whose fields are their places in quotas.py. A script says yes or no by the rules of that
room; what it has found there makes the decision that callers are told, by that room's own arithmetic.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from typing import Any

from ..caller import NO_LIMITS, key_subject
from ..errors import StoreUnavailable
from ..telemetry import metrics
from . import quotas
from .quotas import CELLS, COUNT, HELD, LEASE_S, MINUTE_S, PERIODS, REQUESTS, SKEW_S, TOKENS, Decision, Reservation
from .together import Together, Work

log = logging.getLogger(__name__)

TIMEOUT_S = 2.0
AWAY_S = 5.0  # for so long it is not asked again


class RedisLimits:
    """The numbers in Redis. `used(key, limit, now)` is what the ledger knows of a day or month.

    Its methods raise StoreUnavailable when Redis is away.
    """

    def __init__(self, url: str, used: Callable[[str | None, str, float], int]) -> None:
        import redis  # only where it is used: it takes a quarter of a second and 8 MB

        self._used = used
        self._away_until = 0.0
        self._errors = redis
        self._pool: Any = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=2,
            timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=None,
        )
        self._redis: Any = redis.Redis(connection_pool=self._pool)
        self._hash = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
        self._together: Together[tuple[Any, ...]] = Together(self._send, lambda: 2 * TIMEOUT_S)

    def admit(self, of: Reservation, now: float) -> Decision:
        """Take a place, if no limit refuses it."""
        ends_at = max(of.until + LEASE_S, quotas.expires_at(of, now))
        limits = [_hard(of, name) for name in ("rpm", "concurrency")]
        found = self._run("admit", of, now, of.until + LEASE_S, int((ends_at - now) * 1000) + 1, *limits)
        decision = quotas.admit(_cells(found), of.limits, now)
        if not found[0]:
            return decision
        of.store = self
        return decision._replace(refused=None)  # where it was admitted before, and nobody heard of it

    def hold(self, of: Reservation, tokens: int, now: float) -> Decision:
        """Hold back `tokens`, if no limit refuses them."""
        used: dict[str, int] = {}
        while True:
            limits = [_hard(of, name) for name in TOKENS]
            periods: list[int] = []
            for name, period in PERIODS.items():
                wanted = getattr(of.limits, name) is not None
                periods += [period.number(now), period.number(now + SKEW_S), used.get(name, -1 if wanted else -2)]
            found = self._run("hold", of, now, of.until + LEASE_S, tokens, *limits, *periods)
            if found[0] >= 0:
                return quotas.hold(_cells(found), of.limits, tokens, now)
            used = {name: self._used(of.key_id, name, now) for name in PERIODS if getattr(of.limits, name)}

    def settle(self, of: Reservation, tokens: int, now: float) -> None:
        """Give the place back, and count the `tokens` used. A second time changes nothing."""
        self._run("settle", of, now, tokens, *(period.number(of.began) for period in PERIODS.values()))

    def free(self, call: int, key_id: str | None) -> None:
        """Give back the place of a call that is lost. Of a caller without a key only its own row knows whose it was."""
        subject = key_subject(key_id) if key_id else self._ask(("GET", _call(call)))
        if subject:
            now = time.time()
            subject = subject.decode() if isinstance(subject, bytes) else subject
            self.settle(Reservation(call, subject, key_id, NO_LIMITS, now, now), 0, now)

    def _run(self, what: str, of: Reservation, now: float, *more: float) -> list[int]:
        keys = f"chatapi:limits:{of.subject}", _call(of.call)
        words = " ".join(map(str, (what, repr(now), of.call, of.subject, *more)))
        found = self._ask(("EVALSHA", self._hash, 2, *keys, words))
        return list(map(int, found.split()))

    def _ask(self, command: tuple[Any, ...]) -> Any:
        if time.monotonic() < self._away_until:
            raise StoreUnavailable("it did not answer just now", "Redis")
        try:
            return self._together.do(command)
        except self._errors.ResponseError as error:  # it is there: something else is the matter, of this caller's alone
            log.error("Redis does not do as it is told: %s", type(error).__name__)
            raise StoreUnavailable(type(error).__name__, "Redis") from error
        except (self._errors.RedisError, TimeoutError) as error:
            if time.monotonic() > self._away_until:
                metrics.limit_store_error()
                log.warning("Redis is away (%s): limits are held in the database meanwhile", type(error).__name__)
            self._away_until = time.monotonic() + AWAY_S
            raise StoreUnavailable(type(error).__name__, "Redis") from error

    def _send(self, batch: list[Work[tuple[Any, ...]]]) -> None:
        """Send what many want at once, and read the answers."""
        try:
            self._exchange(batch)
        except self._errors.ConnectionError:
            # Once more, for a connection that was closed since: what a script did it does not do again for a call.
            self._pool.disconnect()
            self._exchange([work for work in batch if not work.done])

    def _exchange(self, batch: list[Work[tuple[Any, ...]]]) -> None:
        connection = self._pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands([work.what for work in batch]))
            again = [work for work in batch if not self._read(connection, work)]
            if again:
                connection.send_command("SCRIPT", "LOAD", _SCRIPT)
                connection.read_response()
                connection.send_packed_command(connection.pack_commands([work.what for work in again]))
                for work in again:
                    self._read(connection, work, last=True)
        except BaseException:
            connection.disconnect()  # answers may be under way that nobody will wait for
            raise
        finally:
            self._pool.release(connection)

    def _read(self, connection: Any, work: Work[tuple[Any, ...]], last: bool = False) -> bool:
        """The answer to `work`; False where Redis does not know the script (yet)."""
        try:
            work.succeed(connection.read_response())
        except self._errors.exceptions.NoScriptError as error:
            if not last:
                return False
            work.fail(error)
        except self._errors.ResponseError as error:
            work.fail(error)
        return True

    def ping(self) -> None:
        """Whether it is there. Raises ConnectionError."""
        try:
            self._redis.ping()
        except self._errors.RedisError as error:
            raise ConnectionError(f"Redis: {type(error).__name__}; limits are held in the database") from error

    def look(self) -> tuple[str, float]:
        """What it throws away when it is full ("" for nothing, ever), and its own time. Raises ConnectionError."""
        try:
            seconds, microseconds = self._redis.time()
            memory = self._redis.info("memory")
        except self._errors.RedisError as error:
            raise ConnectionError(f"it does not answer ({type(error).__name__})") from error
        policy = memory.get("maxmemory_policy", "noeviction") if memory.get("maxmemory") else "noeviction"
        return "" if policy == "noeviction" else policy, seconds + microseconds / 1e6


def _hard(of: Reservation, name: str) -> int:
    """The limit, or -1 where it refuses nobody."""
    limit: int | None = getattr(of.limits, name)
    return -1 if limit is None or name in of.limits.shadow else limit


def _call(call: int) -> str:
    return f"chatapi:call:{call}"


def _cells(found: list[int]) -> list[int]:
    """The numbers that a script has told: pairs of place and number behind its answer."""
    cells = [0] * CELLS
    for place, number in zip(found[1::2], found[2::2], strict=True):
        cells[place] = number
    return cells


# --- the scripts

_COMMON = f"""
local numbers, open, held, subject_of = KEYS[1], KEYS[1] .. ':open', KEYS[1] .. ':held', KEYS[2]
local given = {{}}
for word in string.gmatch(ARGV[1], '%S+') do given[#given + 1] = word end
local what, now, call, subject = given[1], tonumber(given[2]), given[3], given[4]
local COUNT, HELD, MINUTE, SKEW, RING = {COUNT}, {HELD}, {MINUTE_S}, {SKEW_S}, {REQUESTS.RING}
local REQUESTS, TOKENS, DAY, MONTH = {REQUESTS.at}, {TOKENS["tpm"].at}, {PERIODS["tpd"].at}, {PERIODS["tpmonth"].at}

local cells, changed = {{}}, {{}}
local flat = redis.call('HGETALL', numbers)
for i = 1, #flat, 2 do cells[tonumber(flat[i])] = tonumber(flat[i + 1]) end
local function get(place) return cells[place] or 0 end
local function set(place, number) cells[place] = number; changed[place] = true end

local function roll(at)
  local oldest, first = math.floor(now) - MINUTE, get(at)
  if get(at + 1) == 0 then
    if first ~= oldest then set(at, oldest) end
  elseif oldest - first > RING or get(at + 2) > (now + SKEW) * 1000 then
    set(at, oldest); set(at + 1, 0); set(at + 2, 0)
    for place = at + 3, at + 2 + RING do if get(place) ~= 0 then set(place, 0) end end
  else
    while first <= oldest do
      local place = at + 3 + first % RING
      local cell = get(place)
      if first == oldest and oldest + (cell % 1024) / 1000 + MINUTE > now then break end
      if cell ~= 0 then
        set(at + 1, get(at + 1) - math.floor(cell / 1024)); set(place, 0)
      end
      first = first + 1
    end
    if first > get(at) then set(at, first) end
  end
end

local function add(at, amount)
  local second = math.floor(now)
  local place = at + 3 + second % RING
  local cell = get(place)
  local late = math.max(cell % 1024, math.floor((now - second) * 1000))
  set(place, (math.floor(cell / 1024) + amount) * 1024 + late)
  set(at + 1, get(at + 1) + amount)
  set(at + 2, math.max(get(at + 2), math.floor(now * 1000)))
end

local function drop(which)
  set(HELD, math.max(0, get(HELD) - tonumber(redis.call('HGET', held, which) or '0')))
  redis.call('ZREM', open, which)
  redis.call('HDEL', held, which)
end

local function forget_expired()
  for _, which in ipairs(redis.call('ZRANGEBYSCORE', open, '-inf', now)) do drop(which) end
  set(COUNT, redis.call('ZCARD', open))
end

-- What a decision is made from, as it was before this call changed it; all of it where a wait must be told.
local function told(answer, everything)
  local found = {{string.format('%.0f', answer)}}
  for place, number in pairs(cells) do
    if everything or place < REQUESTS + 3 or (place >= TOKENS and place < TOKENS + 3) then
      found[#found + 1] = string.format('%.0f', place)
      found[#found + 1] = string.format('%.0f', number)
    end
  end
  return table.concat(found, ' ')
end

local function write(lasts)
  local fields = {{}}
  for place in pairs(changed) do
    if cells[place] == 0 then
      redis.call('HDEL', numbers, place)
    else
      fields[#fields + 1] = place; fields[#fields + 1] = string.format('%.0f', cells[place])
    end
  end
  if #fields > 0 then redis.call('HSET', numbers, unpack(fields)) end
  for _, key in ipairs({{numbers, open, held}}) do
    if lasts > redis.call('PTTL', key) then redis.call('PEXPIRE', key, lasts) end
  end
end
"""

_SCRIPT = (
    _COMMON
    + """
local function admit(until_, lasts, rpm, concurrency)
  if redis.call('ZSCORE', open, call) then return told(1, false) end
  forget_expired()
  roll(REQUESTS)
  if (rpm >= 0 and get(REQUESTS + 1) + 1 > rpm) or (concurrency >= 0 and get(COUNT) + 1 > concurrency) then
    return told(0, true)
  end
  local found = told(1, false)
  add(REQUESTS, 1)
  redis.call('ZADD', open, until_, call)
  redis.call('SET', subject_of, subject, 'PX', lasts)
  write(lasts)
  return found
end

local function period(at, number, soon, used)
  if get(at) == number or get(at) == soon then return true end
  if used >= 0 then set(at, number); set(at + 1, used) end
  return used ~= -1
end

local function hold(until_, tokens, tpm, tpd, tpmonth, day, next_day, in_day, month, next_month, in_month)
  if not (period(DAY, day, next_day, in_day) and period(MONTH, month, next_month, in_month)) then return '-1' end
  forget_expired()
  local before = tonumber(redis.call('HGET', held, call) or '0')
  if before ~= 0 then set(HELD, get(HELD) - before); redis.call('HDEL', held, call) end
  roll(REQUESTS)
  roll(TOKENS)
  local function over(limit, used) return limit >= 0 and used + get(HELD) + tokens > limit end
  if over(tpm, get(TOKENS + 1)) or over(tpd, get(DAY + 1)) or over(tpmonth, get(MONTH + 1)) then
    return told(0, true)
  end
  local found = told(1, false)
  set(HELD, get(HELD) + tokens)
  redis.call('ZADD', open, until_, call)
  redis.call('HSET', held, call, tokens)
  write(math.max(redis.call('PTTL', numbers), (MINUTE + SKEW) * 1000))
  return found
end

local function settle(tokens, day, month)
  redis.call('DEL', subject_of)
  if not redis.call('ZSCORE', open, call) then return '0' end
  drop(call)
  if tokens > 0 then
    roll(TOKENS)
    add(TOKENS, tokens)
    if get(DAY) == day then set(DAY + 1, get(DAY + 1) + tokens) end
    if get(MONTH) == month then set(MONTH + 1, get(MONTH + 1) + tokens) end
  end
  write((MINUTE + SKEW) * 1000)
  return '1'
end

local numbers_given = {}
for place = 5, #given do numbers_given[#numbers_given + 1] = tonumber(given[place]) end
return ({admit = admit, hold = hold, settle = settle})[what](unpack(numbers_given))
"""
)
