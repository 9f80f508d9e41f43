"""The queue of completion requests in Redis: the API sends requests, samplers send reports with tokens.

Nothing here is durable: if Redis loses its data, only responses in flight are lost, and their clients get an error. All
times are by Redis's clock, so that the clocks of the machines need not agree. All keys expire.

A Redis that is full (maxmemory) refuses a script's first write, and accepts the others of a script that has written
before. So submissions and heartbeats begin with a write that needs memory: both then fail at once, and no request waits
for an answer that cannot be stored.

    attune:sample:workers            sorted set: sampler → time of its last heartbeat, which is in the future if Redis's
                                     clock was set back since
    attune:sample:open:{line}        sorted set: request → its deadline. A request that is removed from it is
                                     withdrawn, whether it waits or is being answered
    attune:sample:queue:{line}       list: waiting requests, oldest first
    attune:sample:turns              list: lines with waiting requests, the next one first
    attune:sample:background-turns   the same for requests of batches, which wait until `turns` is empty
    attune:sample:bell               list: samplers wait until it has an entry; the entries have no meaning
    attune:sample:request:{request}  the request's content
    attune:sample:answer:{request}   stream: the reports of its response
    attune:sample:probe              the write with which a submission begins

`{line}` is the name of a waiting line: the project, or `background-{project}` for the project's requests in the
background (batches, evals, judges), so that these do not use up the places of its chats.
"""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import redis
import redis.asyncio
from pydantic import SecretStr
from redis.typing import EncodableT

from api.spec.sampler_reports import Report
from api.spec.sampling import QueuedRequest

ALIVE_S = 6.0
"""Seconds without a heartbeat after which a sampler counts as dead."""
BEAT_S = 1.0
"""Seconds between two heartbeats of a sampler."""
LISTEN_S = 1.0
"""Seconds that the API waits for a report before it checks whether the request is still open and its sampler alive."""
SOCKET_TIMEOUT_S = 5.0
ANSWER_S = 600
"""Seconds for which Redis keeps the reports of a response after the last one."""

_PREFIX = "attune:sample"
_TURNS, _BACKGROUND_TURNS = f"{_PREFIX}:turns", f"{_PREFIX}:background-turns"
_BACKGROUND = "background-"

_SUBMIT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local request, line, body, timeout, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local prefix, turns, alive = KEYS[1], ARGV[6], tonumber(ARGV[7])
local open = prefix .. ':open:' .. line
redis.call('SET', prefix .. ':probe', '', 'PX', 1)
if redis.call('ZCOUNT', prefix .. ':workers', now - alive, now + alive) == 0 then return 'no_sampler' end
if redis.call('ZCOUNT', open, '(' .. now, '+inf') >= limit then return 'too_many' end
redis.call('SET', prefix .. ':request:' .. request, body, 'EX', math.ceil(timeout))
redis.call('ZREMRANGEBYSCORE', open, '-inf', now)
redis.call('ZADD', open, now + timeout, request)
redis.call('EXPIRE', open, math.ceil(timeout))
redis.call('RPUSH', prefix .. ':queue:' .. line, request)
redis.call('EXPIRE', prefix .. ':queue:' .. line, math.ceil(timeout))
if not redis.call('LPOS', turns, line) then redis.call('RPUSH', turns, line) end
redis.call('LPUSH', prefix .. ':bell', 1)
redis.call('LTRIM', prefix .. ':bell', 0, 15)
return 'ok'
"""

_TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local prefix, sampler, expiry = KEYS[1], ARGV[1], ARGV[2]
for index = 3, #ARGV do
  local turns = ARGV[index]
  while true do
    local line = redis.call('LPOP', turns)
    if not line then break end
    local queue = prefix .. ':queue:' .. line
    local request = redis.call('LPOP', queue)
    if redis.call('LLEN', queue) > 0 then redis.call('RPUSH', turns, line) end
    if request then
      local deadline = redis.call('ZSCORE', prefix .. ':open:' .. line, request)
      local body = redis.call('GETDEL', prefix .. ':request:' .. request)
      if body and deadline and tonumber(deadline) > now then
        -- Announced here: a request that is taken but not announced would wait until its deadline.
        local answer = prefix .. ':answer:' .. request
        redis.call('XADD', answer, '*', 'sampler', sampler)
        redis.call('EXPIRE', answer, expiry)
        return {line, request, body}
      end
    end
  end
end
return nil
"""

_WANTED = """
local time = redis.call('TIME')
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
return deadline and tonumber(deadline) > time[1] + time[2] / 1000000 and 1 or 0
"""

_BEAT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
"""

_ALIVE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local alive = tonumber(ARGV[2])
if ARGV[1] == '' then return redis.call('ZCOUNT', KEYS[1], now - alive, now + alive) end
local beat = redis.call('ZSCORE', KEYS[1], ARGV[1])
return beat and math.abs(tonumber(beat) - now) < alive and 1 or 0
"""


class NoSampler(Exception):
    """No live sampler is registered."""


class TooManyOpen(Exception):
    """The waiting line of the request already has as many open requests as `submit` allows."""


class SamplerDead(Exception):
    """The sampler of the request is dead, or no live sampler is left to take the request."""


@dataclass(frozen=True)
class SampleJob:
    """A completion request in the queue."""

    id: str
    project_id: str
    content: QueuedRequest
    background: bool = False
    """Whether samplers take the request only while no client's request waits."""

    @property
    def line(self) -> str:
        """The name of the waiting line that the request belongs to (see the module)."""
        return f"{_BACKGROUND}{self.project_id}" if self.background else self.project_id


class Producer:
    """The API's side of the queue. Each request needs its own Producer, because waiting for reports blocks the
    connection to Redis."""

    def __init__(self, broker_url: SecretStr) -> None:
        self._redis = redis.asyncio.Redis.from_url(
            broker_url.get_secret_value(),
            decode_responses=True,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._redis.aclose()

    async def submit(self, job: SampleJob, *, timeout_s: float, limit: int) -> None:
        """Add the request to its project's waiting line (`job.line`). Raises NoSampler if no sampler is alive, and
        TooManyOpen if that line already has `limit` open requests."""
        body = json.dumps(job.content)
        turns = _BACKGROUND_TURNS if job.background else _TURNS
        result = await self._run(_SUBMIT, [_PREFIX], job.id, job.line, body, timeout_s, limit, turns, ALIVE_S)
        if result != "ok":
            raise NoSampler if result == "no_sampler" else TooManyOpen

    async def withdraw(self, job: SampleJob) -> None:
        """Remove the request and its reports. A sampler that works on the request stops."""
        async with self._redis.pipeline() as pipe:
            pipe.zrem(f"{_PREFIX}:open:{job.line}", job.id)
            pipe.delete(f"{_PREFIX}:request:{job.id}", f"{_PREFIX}:answer:{job.id}")
            await pipe.execute()

    async def reports(self, job: SampleJob) -> AsyncIterator[Report]:
        """Yield the sampler's reports, until the caller stops. Raises SamplerDead if no live sampler can answer, and
        TimeoutError if the request is past its deadline or withdrawn."""
        key, last, sampler = f"{_PREFIX}:answer:{job.id}", "0", ""
        while True:
            streams: Any = await self._redis.xread({key: last}, count=256, block=int(1000 * LISTEN_S))
            for number, fields in streams[0][1] if streams else ():
                last = number
                if "sampler" in fields:
                    sampler = fields["sampler"]
                else:
                    yield json.loads(fields["report"])
            if streams:
                await self._redis.xtrim(key, minid=last)  # frees the memory of entries that were read
            else:
                if not await self._run(_WANTED, [f"{_PREFIX}:open:{job.line}"], job.id):
                    raise TimeoutError
                if not await self._run(_ALIVE, [f"{_PREFIX}:workers"], sampler, ALIVE_S):
                    raise SamplerDead

    async def _run(self, script: str, keys: list[str], *arguments: EncodableT) -> object:
        return await self._redis.eval(script, len(keys), *keys, *arguments)


class Consumer:
    """A sampler's side of the queue."""

    def __init__(self, broker_url: SecretStr, name: str) -> None:
        """`name` is unique to the process: a sampler that is started anew has another name, so that the requests of its
        killed predecessor count as lost."""
        self.name = name
        self._redis = redis.Redis.from_url(
            broker_url.get_secret_value(),
            decode_responses=True,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
        )

    def beat(self) -> None:
        """Register as alive for ALIVE_S seconds."""
        self._redis.eval(_BEAT, 1, f"{_PREFIX}:workers", self.name, ALIVE_S)

    def deregister(self) -> None:
        self._redis.zrem(f"{_PREFIX}:workers", self.name)

    def take(self, wait_s: float, *, background: bool = True) -> SampleJob | None:
        """Return the next request of the line whose turn it is; None if none arrives within `wait_s` seconds.

        `background`: whether background requests may be returned, if no others wait.
        """
        if (job := self._take(background)) is not None:
            return job
        self._redis.blpop([f"{_PREFIX}:bell"], timeout=wait_s)
        return self._take(background)

    def _take(self, background: bool) -> SampleJob | None:
        turns = [_TURNS, _BACKGROUND_TURNS] if background else [_TURNS]
        taken: Any = self._redis.eval(_TAKE, 1, _PREFIX, self.name, ANSWER_S, *turns)
        if taken is None:
            return None
        line, request, body = taken
        project_id = line.removeprefix(_BACKGROUND)
        return SampleJob(request, project_id, json.loads(body), background=project_id != line)

    def is_wanted(self, job: SampleJob) -> bool:
        """Return whether the request is neither withdrawn nor past its deadline."""
        return bool(self._redis.eval(_WANTED, 1, f"{_PREFIX}:open:{job.line}", job.id))

    def report(self, job: SampleJob, report: Mapping[str, object]) -> None:
        key = f"{_PREFIX}:answer:{job.id}"
        with self._redis.pipeline() as pipe:
            pipe.xadd(key, {"report": json.dumps(report)})
            pipe.expire(key, ANSWER_S)
            pipe.execute()
