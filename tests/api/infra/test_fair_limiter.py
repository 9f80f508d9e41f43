"""Turns by project."""

import asyncio

import pytest

from api.errors import ServiceError
from api.infra.fair_limiter import ConcurrencyLimitExceeded, FairLimiter, TurnTimeout


async def _settled() -> None:
    """Everything that can go on has gone on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def _hold(turns: FairLimiter, project: str, order: list[str], done: asyncio.Event) -> None:
    async with turns.turn(project):
        order.append(project)
        await done.wait()


def test_projects_take_turns_however_many_one_asks_for() -> None:
    async def run() -> list[str]:
        turns, order, done = FairLimiter("things", total=2, per_project=1, max_waiting=5), list[str](), asyncio.Event()
        tasks = [asyncio.create_task(_hold(turns, name, order, done)) for name in "aaaabc"]
        await _settled()
        held = list(order)
        done.set()
        await asyncio.gather(*tasks)
        return [*held, "|", *order[len(held) :]]

    assert asyncio.run(run()) == ["a", "b", "|", "c", "a", "a", "a"]


def test_one_more_than_may_wait_is_refused_at_once() -> None:
    async def run() -> None:
        turns, done = FairLimiter("things", total=1, per_project=1, max_waiting=2), asyncio.Event()
        tasks = [asyncio.create_task(_hold(turns, "a", [], done)) for _ in range(3)]
        await _settled()
        with pytest.raises(ConcurrencyLimitExceeded, match="1 things at once and 2 more waiting"):
            async with turns.turn("a"):
                pass
        done.set()
        await asyncio.gather(*tasks)
        async with turns.turn("a"):
            pass

    asyncio.run(run())


def test_response_that_has_begun_waits_however_many_wait() -> None:
    async def run() -> None:
        turns, done = FairLimiter("things", total=1, per_project=1, max_waiting=0), asyncio.Event()
        first = asyncio.create_task(_hold(turns, "a", [], done))
        await _settled()
        asyncio.get_running_loop().call_soon(done.set)
        async with turns.turn("a", begun=True), asyncio.timeout(5):
            await first

    asyncio.run(run())


def test_project_without_a_running_task_enters_above_the_total() -> None:
    async def run() -> list[str]:
        turns = FairLimiter("things", total=2, per_project=2, max_waiting=5, first_at_once=True)
        order, done = list[str](), asyncio.Event()
        tasks = [asyncio.create_task(_hold(turns, name, order, done)) for name in "aaabbc"]
        await _settled()
        held = list(order)
        done.set()
        await asyncio.gather(*tasks)
        return [*held, "|", *order[len(held) :]]

    assert asyncio.run(run()) == ["a", "a", "b", "c", "|", "a", "b"]


@pytest.mark.parametrize(
    ("name", "status", "full"), [("a", 429, "This project has 1 things"), ("b", 503, "This server has 1 things")]
)
def test_error_of_a_turn_that_does_not_come_says_what_is_full(name: str, status: int, full: str) -> None:
    async def run() -> None:
        turns, done = FairLimiter("things", total=1, per_project=1, max_waiting=1, wait_s=0), asyncio.Event()
        task = asyncio.create_task(_hold(turns, "a", [], done))
        await _settled()
        with pytest.raises(ServiceError, match=f"{full} at once") as refused:
            async with turns.turn(name):
                pass
        assert (refused.value.status, refused.value.headers) == (status, {"retry-after": "5"})
        done.set()
        await task

    asyncio.run(run())


def test_who_gives_up_waiting_leaves_its_place() -> None:
    async def run() -> None:
        turns, done = FairLimiter("things", total=1, per_project=1, max_waiting=1, wait_s=0.01), asyncio.Event()
        first = asyncio.create_task(_hold(turns, "a", [], done))
        await _settled()
        for _ in range(2):  # its place is free again
            with pytest.raises(TurnTimeout):
                async with turns.turn("b"):
                    pass
        second = asyncio.create_task(_hold(turns, "b", [], done))
        await _settled()
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        done.set()
        await first
        async with turns.turn("b"), asyncio.timeout(5):
            pass

    asyncio.run(run())
