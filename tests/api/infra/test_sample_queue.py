"""Requests and reports between the API and the samplers, over a real broker."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import OutOfMemoryError

from api.infra.doorbell import require_space
from api.infra.sample_queue import Consumer, NoSampler, Producer, SampleJob, SamplerDead, TooManyOpen
from tests.api.sampler import a_request, text
from tests.services import Valkey

T = TypeVar("T")


@pytest.fixture
def url(valkey_url: str) -> SecretStr:
    return SecretStr(valkey_url)


@pytest.fixture
def receiver(url: SecretStr) -> Consumer:
    """One that is alive."""
    receiver = Consumer(url, "one")
    receiver.beat()
    return receiver


def sent(url: SecretStr, what: Callable[[Producer], Awaitable[T]]) -> T:
    async def main() -> T:
        async with Producer(url) as sender:
            return await what(sender)

    return asyncio.run(main())


def submit(url: SecretStr, *letters: SampleJob, timeout_s: float = 60, limit: int = 8) -> None:
    for letter in letters:
        sent(url, lambda sender, letter=letter: sender.submit(letter, timeout_s=timeout_s, limit=limit))  # type: ignore[misc]


def letter(number: int, project: str = "a") -> SampleJob:
    return a_request(f"cmpl-{project}{number}", project, number=number)


def test_a_request_arrives_once(url: SecretStr, receiver: Consumer) -> None:
    submit(url, letter(1))
    assert receiver.take(0.1) == letter(1)
    assert receiver.take(0.1) is None


def test_projects_take_turns(url: SecretStr, receiver: Consumer) -> None:
    submit(url, *(letter(number) for number in range(3)), letter(0, "b"), letter(1, "b"))
    taken = [receiver.take(0.1) for _ in range(5)]
    assert [each.id for each in taken if each] == ["cmpl-a0", "cmpl-b0", "cmpl-a1", "cmpl-b1", "cmpl-a2"]


def test_requests_of_batches_wait_where_there_is_place_for_others_only(url: SecretStr, receiver: Consumer) -> None:
    batch = replace(letter(1), background=True)
    submit(url, batch, letter(2))
    assert receiver.take(0.1, background=False) == letter(2)
    assert receiver.take(0.1, background=False) is None
    assert receiver.take(0.1) == batch


def test_requests_of_batches_come_when_no_other_waits(url: SecretStr, receiver: Consumer) -> None:
    behind = [replace(letter(number, project), background=True) for number in (7, 8) for project in "ab"]
    submit(url, *behind, letter(0), letter(1), limit=2)
    assert [receiver.take(0.1) for _ in range(6)] == [letter(0), letter(1), *behind]
    assert receiver.is_wanted(behind[0])
    sent(url, lambda sender: sender.withdraw(behind[0]))
    assert not receiver.is_wanted(behind[0])


def test_without_a_living_sampler_a_request_is_refused(url: SecretStr, receiver: Consumer) -> None:
    receiver.deregister()
    with pytest.raises(NoSampler):
        submit(url, letter(1))


def test_a_sampler_that_was_lost_before_the_clock_was_set_back_is_not_alive(url: SecretStr, receiver: Consumer) -> None:
    submit(url, letter(1))
    assert receiver.take(0.1)
    with Redis.from_url(url.get_secret_value()) as redis:
        redis.zincrby("attune:sample:workers", 3600, receiver.name)
    with pytest.raises(NoSampler):
        submit(url, letter(2))
    with pytest.raises(SamplerDead):
        sent(url, lambda sender: anext(sender.reports(letter(1))))
    receiver.beat()
    submit(url, letter(2))


def test_a_project_waits_for_so_many_answers_at_most(url: SecretStr, receiver: Consumer) -> None:
    submit(url, letter(1), letter(2), limit=2)
    with pytest.raises(TooManyOpen):
        submit(url, letter(3), limit=2)
    submit(url, letter(3, "b"), limit=2)
    sent(url, lambda sender: sender.withdraw(letter(1)))
    submit(url, letter(3), limit=2)


def test_what_was_withdrawn_is_neither_taken_nor_wanted(url: SecretStr, receiver: Consumer) -> None:
    submit(url, letter(1), letter(2))
    assert receiver.take(0.1) == letter(1)
    assert receiver.is_wanted(letter(1))
    for each in (letter(1), letter(2)):
        sent(url, lambda sender, each=each: sender.withdraw(each))  # type: ignore[misc]
    assert not receiver.is_wanted(letter(1))
    assert receiver.take(0.1) is None


def test_reports_come_in_their_order(url: SecretStr, receiver: Consumer) -> None:
    submit(url, letter(1))
    receiver.take(0.1)
    for number in range(5):
        receiver.report(letter(1), text("a", number))

    async def read(sender: Producer) -> list[object]:
        return [await anext(reports) for reports in [sender.reports(letter(1))] for _ in range(5)]

    assert sent(url, read) == [text("a", number) for number in range(5)]


def test_a_request_whose_sampler_is_gone_is_lost(url: SecretStr, receiver: Consumer) -> None:
    submit(url, letter(1))
    receiver.take(0.1)
    receiver.deregister()
    Consumer(url, "its successor").beat()
    with pytest.raises(SamplerDead):
        sent(url, lambda sender: anext(sender.reports(letter(1))))


def test_a_request_that_took_too_long_says_so_and_is_not_taken(url: SecretStr, receiver: Consumer) -> None:
    submit(url, letter(1), timeout_s=0.2)
    with pytest.raises(TimeoutError):
        sent(url, lambda sender: anext(sender.reports(letter(1))))
    assert receiver.take(0.1) is None


def test_a_full_broker_refuses_requests_and_heartbeats_at_once(
    valkey: Valkey, url: SecretStr, receiver: Consumer
) -> None:
    with valkey.full():
        for act in (lambda: submit(url, letter(1)), receiver.beat, lambda: require_space(url)):
            with pytest.raises(OutOfMemoryError):
                act()
        receiver.deregister()  # as it counts after a few seconds without heartbeats
        with pytest.raises(OutOfMemoryError):
            submit(url, letter(1))


def test_a_request_is_taken_and_announced_in_one_step_though_the_broker_is_full(
    valkey: Valkey, url: SecretStr, receiver: Consumer
) -> None:
    """Else it would be taken from the queue, answered by nobody, and waited for until its deadline."""
    submit(url, letter(1))
    with valkey.full():
        assert receiver.take(0.1) == letter(1)
    receiver.deregister()
    with pytest.raises(SamplerDead):
        sent(url, lambda sender: anext(sender.reports(letter(1))))
