"""A sampler's supervisor with its real child: when there is one, and what it says when it cannot answer."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.exceptions import OutOfMemoryError

from api.context import Caller, Context
from api.errors import ServiceError
from api.infra.sample_queue import Consumer, SampleJob
from api.records.base import db_now
from api.records.models import Model
from api.services import base_models, sampling
from api.settings import Settings
from api.spec.lifecycle import JobStatus
from api.spec.recipe import Recipe
from api.spec.resolve import resolve
from api.spec.sampling import SamplingRequest
from tests.end_to_end.jobs import wait_until
from tests.factories import a_caller, a_job
from tests.services.attune import words_of
from worker.supervisor.sample import Sampler

ASK = SamplingRequest(prompts=["abc"], max_tokens=3, temperature=0, top_p=1)
NAME = "ft:tiny:attune::abcdefgh"


@pytest.fixture
def opened(tmp_path: Path, sqlite_url: str, valkey_url: str, tiny_base: Path) -> Iterator[Context]:
    """A data folder with the base model `tiny`, and a sampler on it."""
    settings = Settings(
        data_dir=tmp_path / "data",
        database_url=sqlite_url,
        broker_url=valkey_url,
        sample_idle_s=1.0,
        sample_timeout_s=120,
    )
    context = Context.open(settings)
    base_models.register(context, "tiny", tiny_base)
    folder = tmp_path / "sampler"
    folder.mkdir()
    Consumer(settings.broker_url, "for the first moment").beat()
    sampler = Sampler(settings, context.storage, folder)
    thread = threading.Thread(target=sampler.run)
    thread.start()
    yield context
    sampler.stopping.set()
    thread.join()
    context.database.dispose()


@pytest.fixture
def caller(opened: Context) -> Caller:
    return a_caller(opened.database)


def ask(context: Context, caller: Caller, model: str) -> list[Any]:
    async def main() -> list[Any]:
        async with sampling.sample(context, caller, model, ASK, answer_id="cmpl-test") as answer:
            return [report async for report in answer.reports]

    return asyncio.run(main())


def children() -> list[psutil.Process]:
    """Of the sampler in this process, without those of an `attune up` that other tests started."""
    this = psutil.Process()
    living = this.children(recursive=True)  # a zombie has no words
    others = {below for each in living if "up" in words_of(each) for below in each.children(recursive=True)}
    return [each for each in living if "worker.sample" in words_of(each) and each not in others]


def a_model(context: Context, caller: Caller, artifacts: list[dict[str, Any]]) -> str:
    recipe = Recipe(model="tiny", training_file="file-a")
    counts: dict[str, Any] = {"max_length": 8, "train_rows": 10, "validation_rows": 0}
    resolved = resolve(recipe, job_id="ftjob-a", seed=0, **counts).model_dump(mode="json")
    job_id = a_job(context.database, caller.project_id, JobStatus.SUCCEEDED, resolved=resolved)
    row = {"project_id": caller.project_id, "job_id": job_id, "base_model": "tiny", "created_at": db_now()}
    with context.database.write() as session:
        session.add(Model(id=NAME, artifacts=artifacts, **row))
    return NAME


def test_a_child_is_there_from_the_first_request_until_nobody_has_asked_for_long(
    opened: Context, caller: Caller
) -> None:
    assert not children()
    first = ask(opened, caller, "tiny")
    counts = {"tokens": 3, "reasoning_tokens": 0}
    assert first[-1] == {"type": "finished", "id": "cmpl-test", "index": 0, "reason": "length", **counts}
    assert len(children()) == 1
    wait_until(lambda: not children(), timeout_s=30)
    assert ask(opened, caller, "tiny") == first, "another child says the same"


def test_requests_at_once_are_all_answered_by_one_child(opened: Context, caller: Caller) -> None:
    async def one(number: int) -> list[Any]:
        async with sampling.sample(opened, caller, "tiny", ASK, answer_id=f"cmpl-{number}") as answer:
            return [report async for report in answer.reports]

    async def all_at_once() -> list[list[Any]]:
        return await asyncio.gather(*map(one, range(5)))

    answers = asyncio.run(all_at_once())
    assert [reports[-1]["id"] for reports in answers] == [f"cmpl-{number}" for number in range(5)]
    assert {reports[-1]["type"] for reports in answers} == {"finished"}
    assert len(children()) == 1


Broken = Callable[[Context], list[dict[str, Any]]]


def missing(context: Context) -> list[dict[str, Any]]:
    return [{"name": "adapter_model.safetensors", "bytes": 1, "sha256": "0", "key": "models/gone"}]


def damaged(context: Context) -> list[dict[str, Any]]:
    context.storage.write_bytes("models/damaged", b"x")
    return [{"name": "adapter_model.safetensors", "bytes": 1, "sha256": "0", "key": "models/damaged"}]


def not_an_adapter(context: Context) -> list[dict[str, Any]]:
    stored = context.storage.write_bytes("models/other", b"{}")
    return [{"name": "adapter_config.json", "bytes": 2, "sha256": stored.sha256, "key": "models/other"}]


@pytest.mark.parametrize(
    ("broken", "words"),
    [(missing, "was deleted"), (damaged, "could not be fetched"), (not_an_adapter, "in the log as cmpl-test")],
)
def test_a_model_that_cannot_be_loaded_is_an_error_and_the_next_is_answered(
    opened: Context, caller: Caller, broken: Broken, words: str
) -> None:
    with pytest.raises(ServiceError, match=words):
        ask(opened, caller, a_model(opened, caller, broken(opened)))
    assert ask(opened, caller, "tiny")


def test_the_client_of_an_answer_that_the_broker_did_not_take_hears_of_it_at_once(
    opened: Context, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, faults = Consumer.report, [OutOfMemoryError()]

    def refused_once(self: Consumer, job: SampleJob, fields: Mapping[str, object]) -> None:
        if faults:
            raise faults.pop()
        report(self, job, fields)

    monkeypatch.setattr(Consumer, "report", refused_once)
    with pytest.raises(sampling.SamplerLost):
        ask(opened, caller, "tiny")
