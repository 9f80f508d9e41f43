"""Turns by project."""

import asyncio

import pytest

from api.infra.fair_limiter import ConcurrencyLimitExceeded, FairLimiter


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
        with pytest.raises(ConcurrencyLimitExceeded, match="3 things running or waiting"):
            async with turns.turn("a"):
                pass
        done.set()
        await asyncio.gather(*tasks)
        async with turns.turn("a"):
            pass

    asyncio.run(run())


def test_who_gives_up_waiting_leaves_its_place() -> None:
    async def run() -> None:
        turns, done = FairLimiter("things", total=1, per_project=1, max_waiting=1), asyncio.Event()
        first = asyncio.create_task(_hold(turns, "a", [], done))
        await _settled()
        for _ in range(2):  # its place is free again
            with pytest.raises(TimeoutError):
                async with turns.turn("b", wait_s=0):
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
