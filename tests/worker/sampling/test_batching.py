"""Answers that are generated together: each is the one that transformers' `generate` gives to its request alone."""

import weakref
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraModel

from api.estimate.work import PACKED_FAMILIES
from api.spec.sampling import SamplerJob
from tests.tiny_models import make_model
from tests.worker.sampling.asking import CPU, make_adapter, run, serving, technique
from worker.sampling import answer as answer_module
from worker.sampling import echo as echo_module
from worker.sampling import server as server_module
from worker.sampling.bases import LoadedBase, ModelSource
from worker.sampling.batch import Batch
from worker.sampling.server import SamplingServer
from worker.shared.reports import SamplerReport, as_dict

PROMPTS = ([3, 250, 17, 90, 4], [9], list(range(20, 60)), [200] * 12, [5, 6, 7, 8, 9, 10, 11])


class Unbatched(LoadedBase):
    def batch_key(self, source: ModelSource) -> None:
        return None


class Served:
    """A server, its reports by request, and the ids in the order of their last reports."""

    def __init__(self, base: LoadedBase, **options: Any) -> None:
        self.reports: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.ended: list[str] = []
        self.cancelled: set[str] = set()
        self.server: SamplingServer = serving(base, self._report, cancelled=self.cancelled, **options)

    def submit(self, *jobs: SamplerJob) -> "Served":
        for job in jobs:
            self.server.submit(job)
        return self

    def run(self) -> "Served":
        run(self.server)
        return self

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.server.step()

    def answer(self, id_: str, index: int = 0) -> tuple[str, str, int]:
        """The text, how it ended, and its tokens."""
        mine = [report for report in self.reports[id_] if report.get("index") == index]
        text = "".join(report["text"] for report in mine if report["type"] == "text")
        return text, mine[-1]["reason"], mine[-1]["tokens"]

    def logprobs(self, id_: str, index: int) -> list[float]:
        texts = [each for each in self.reports[id_] if each["type"] == "text" and each["index"] == index]
        tokens = [token for report in texts for token in report["tokens"]]
        return [each["logprob"] for token in tokens for each in (token, *token["top"])]

    def last(self, id_: str) -> str:
        return str(self.reports[id_][-1]["type"])

    def _report(self, report: SamplerReport) -> None:
        fields = as_dict(report)
        self.reports[fields["id"]].append(fields)
        if fields["type"] in {"done", "refused", "cancelled", "failed"}:
            self.ended.append(fields["id"])


def job(id_: str, source: ModelSource, prompt: list[int], **fields: Any) -> SamplerJob:
    given = {"prompts": [prompt], "max_tokens": 12, "temperature": 0, "top_p": 1, "top_logprobs": 2} | fields
    adapter = None if source.adapter is None else str(source.adapter)
    return SamplerJob(id=id_, base=str(source.base), adapter=adapter, technique=source.technique, **given)


@pytest.fixture(scope="module")
def base(llama: Path) -> LoadedBase:
    return LoadedBase(ModelSource(llama), CPU, torch.float32)


@pytest.fixture(scope="module")
def alone(llama: Path) -> LoadedBase:
    return Unbatched(ModelSource(llama), CPU, torch.float32)


@pytest.fixture(scope="module")
def tuned(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSource]:
    """The base, two models with LoRA, and one of each other technique of peft's."""
    folder = tmp_path_factory.mktemp("adapters")
    names = {"lora-1": "lora", "lora-2": "lora", "dora": "dora", "ia3": "ia3", "virtual": "prefix"}
    adapters = {
        name: ModelSource(llama, make_adapter(llama, folder / name, technique(kind), seed), technique(kind))
        for seed, (name, kind) in enumerate(names.items())
    }
    return {"base": ModelSource(llama)} | adapters


def require_same(served: Served, jobs: list[SamplerJob], alone: LoadedBase) -> None:
    reference = Served(alone).submit(*jobs).run()
    for each in jobs:
        for index in range(each.n):
            assert served.answer(each.id, index) == reference.answer(each.id, index), each.id
            assert served.logprobs(each.id, index) == pytest.approx(reference.logprobs(each.id, index), abs=1e-4)


@pytest.mark.parametrize("family", sorted(PACKED_FAMILIES))
def test_each_answer_is_the_one_it_gets_alone_though_rows_join_and_leave(family: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "base", family, seed=3)
    base, alone = (kind(ModelSource(folder), CPU, torch.float32) for kind in (LoadedBase, Unbatched))
    jobs = [
        job(str(number), ModelSource(folder), prompt, max_tokens=4 + 5 * number)
        for number, prompt in enumerate(PROMPTS)
    ]
    served = Served(base, places=3).submit(*jobs[:2])
    served.steps(3)
    require_same(served.submit(*jobs[2:]).run(), jobs, alone)


def test_models_of_several_adapters_share_a_batch(
    base: LoadedBase, alone: LoadedBase, tuned: dict[str, ModelSource]
) -> None:
    jobs = [
        job(f"{name}-{number}", tuned[name], prompt)
        for number, prompt in enumerate(PROMPTS[:3])
        for name in ("lora-1", "base", "lora-2")
    ]
    served = Served(base).submit(*jobs)
    served.steps(5)
    assert len(served.server._rows) == len(jobs)
    require_same(served.run(), jobs, alone)


def test_peft_inspects_its_layers_only_when_the_rows_change(
    base: LoadedBase, tuned: dict[str, ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(name, tuned[name], [3, 250, 17], max_tokens=30) for name in ("lora-1", "base", "lora-2")]
    served = Served(base).submit(*jobs)
    served.steps(len(jobs) + 1)
    for changes in ("_enable_peft_forward_hooks", "_enable_adapter_layers", "set_adapter"):
        monkeypatch.setattr(LoraModel, changes, None)
    served.steps(2)
    assert len(served.server._rows) == len(jobs)


def test_models_of_a_mixture_of_experts_are_answered_in_batches_of_their_own(tmp_path: Path) -> None:
    """peft computes no rows of several adapters beside an adapter on tensors of experts."""
    mixture = make_model(tmp_path / "mixture", "qwen3_moe", seed=3)
    lora = technique("lora")
    models = [ModelSource(mixture, make_adapter(mixture, tmp_path / str(n), lora, n), lora) for n in range(2)]
    base, alone = (kind(ModelSource(mixture), CPU, torch.float32) for kind in (LoadedBase, Unbatched))
    jobs = [
        job(f"{name}-{number}", source, prompt)
        for number, prompt in enumerate(PROMPTS[:2])
        for name, source in {"base": ModelSource(mixture), "one": models[0], "other": models[1]}.items()
    ]
    served = Served(base).submit(*jobs)
    served.steps(3)
    assert len(served.server._rows) == 2
    require_same(served.run(), jobs, alone)


def test_models_that_cannot_share_a_batch_take_turns(
    base: LoadedBase, alone: LoadedBase, tuned: dict[str, ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.0)
    jobs = [
        job(f"{name}-{number}", tuned[name], prompt, max_tokens=6)
        for number, prompt in enumerate(PROMPTS[:2])
        for name in ("dora", "base", "virtual", "ia3", "lora-1")
    ]
    served = Served(base).submit(*jobs).run()
    require_same(served, jobs, alone)
    assert served.ended.index("lora-1-0") < served.ended.index("dora-1"), "the oldest come first"


def test_sampled_answers_stop_strings_and_choices_are_those_of_one_by_one(
    base: LoadedBase, alone: LoadedBase, tuned: dict[str, ModelSource]
) -> None:
    drawn = {"temperature": 0.8, "top_p": 0.9, "seed": 7, "n": 3, "max_tokens": 30}
    jobs = [job(str(number), tuned["base"], prompt, **drawn) for number, prompt in enumerate(PROMPTS[:3])]
    said = Served(alone).submit(jobs[0]).run().answer("0")[0]
    stops = job("stops", tuned["base"], PROMPTS[0], **drawn | {"stop": [said[3:5]]})
    served = Served(base, places=5).submit(*jobs, stops).run()
    require_same(served, [*jobs, stops], alone)
    assert served.answer("stops")[:2] == (said[: said.index(said[3:5])], "stop")


def test_a_request_joins_while_another_is_answered(base: LoadedBase, tuned: dict[str, ModelSource]) -> None:
    served = Served(base).submit(job("long", tuned["base"], PROMPTS[0], max_tokens=80))
    served.steps(3)
    served.submit(job("short", tuned["base"], PROMPTS[1], max_tokens=3)).run()
    assert served.ended == ["short", "long"]


def test_a_request_of_many_answers_leaves_places_to_the_next(base: LoadedBase, tuned: dict[str, ModelSource]) -> None:
    served = Served(base, places=2).submit(job("many", tuned["base"], PROMPTS[0], n=4, seed=1, temperature=1))
    served.steps(1)
    served.submit(job("one", tuned["base"], PROMPTS[1])).run()
    assert served.ended == ["one", "many"]


def test_a_client_that_goes_away_frees_its_place(base: LoadedBase, tuned: dict[str, ModelSource]) -> None:
    served = Served(base, places=1).submit(
        job("gone", tuned["base"], PROMPTS[0], max_tokens=80), job("next", tuned["base"], PROMPTS[1])
    )
    served.steps(2)
    assert not served.reports["next"]
    served.cancelled.add("gone")
    served.steps(1)
    assert served.last("gone") == "cancelled"
    assert served.last("next") == "text"
    written = len(served.reports["gone"])
    assert served.run().last("next") == "done"
    assert len(served.reports["gone"]) == written


def test_requests_of_batches_give_their_places_to_others_and_lose_nothing(
    base: LoadedBase, alone: LoadedBase, tuned: dict[str, ModelSource]
) -> None:
    jobs = [
        *(job(f"batch-{number}", tuned["lora-1"], PROMPTS[number], background=True) for number in range(3)),
        *(job(f"chat-{number}", tuned[name], PROMPTS[number]) for number, name in enumerate(("base", "dora"))),
    ]
    served = Served(base, places=2).submit(*jobs[:3])
    served.steps(4)
    served.submit(*jobs[3:]).run()
    assert set(served.ended[:2]) == {"chat-0", "chat-1"}
    require_same(served, jobs, alone)


def test_the_cache_keeps_its_bound_and_rows_that_lose_their_place_lose_no_token(
    base: LoadedBase, alone: LoadedBase, tuned: dict[str, ModelSource]
) -> None:
    jobs = [job(str(number), tuned["base"], prompt, max_tokens=40) for number, prompt in enumerate(PROMPTS)]
    served = Served(base, cache_tokens=100).submit(*jobs)
    most, together = 0, 0
    while not served.server.idle:
        served.steps(1)
        rows = served.server._rows
        together = max(together, len(rows))
        if len(rows) > 1:
            most = max(most, len(rows) * max(len(row.answer.tokens) - 1 for row in rows))
    assert together > 1
    assert 50 < most <= 100
    require_same(served, jobs, alone)


def test_when_memory_runs_out_fewer_are_generated_at_once(
    base: LoadedBase, alone: LoadedBase, tuned: dict[str, ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, step = [], Batch.step

    def short_of_memory(batch: Batch) -> None:
        sizes.append(len(batch.rows))
        if len(batch.rows) > 2:
            raise torch.OutOfMemoryError("no memory")
        step(batch)

    monkeypatch.setattr(Batch, "step", short_of_memory)
    jobs = [job(str(number), tuned["base"], prompt) for number, prompt in enumerate(PROMPTS)]
    require_same(Served(base).submit(*jobs).run(), jobs, alone)
    assert sizes[:2] == [5, 2]


def test_after_a_shortage_of_memory_more_are_generated_at_once_again(
    base: LoadedBase, tuned: dict[str, ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, step = [], Batch.step

    def short_of_memory_once(batch: Batch) -> None:
        sizes.append(len(batch.rows))
        if len(sizes) == 1:
            raise torch.OutOfMemoryError("no memory")
        step(batch)

    monkeypatch.setattr(Batch, "step", short_of_memory_once)
    monkeypatch.setattr(server_module, "RECOVERY_STEPS", 3)
    Served(base, places=4).submit(job("many", tuned["base"], PROMPTS[0], n=6, seed=1, temperature=1)).run()
    assert (sizes[:2], max(sizes[1:])) == ([4, 2], 4)


def test_an_error_of_the_gpu_ends_the_server(
    base: LoadedBase, tuned: dict[str, ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Batch) -> None:
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(Batch, "step", fail)
    served = Served(base).submit(job("first", tuned["base"], PROMPTS[0])).run()
    assert served.reports["first"][-1]["reason"] == "worker_fault"
    assert served.server.broken, "no later request can use the GPU"


def test_a_model_that_does_not_fit_keeps_no_memory(
    tuned: dict[str, ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[torch.Tensor]] = []
    left: list[bool] = []

    def load(_: ModelSource) -> LoadedBase:
        part = torch.ones(1000)
        loaded.append(weakref.ref(part))
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(any(part() is not None for part in loaded)))
    reports: list[SamplerReport] = []
    server = SamplingServer(load, reports.append, cancelled=lambda _: False, places=4, cache_tokens=4096)
    server.submit(job("first", tuned["base"], PROMPTS[0]))
    run(server)
    failed = as_dict(reports[-1])
    assert (failed["reason"], failed["message"][:36]) == ("out_of_memory", "The sampler has too little free memo")
    assert left == [False, False], "before the model was loaded, and after memory ran out"


@pytest.mark.parametrize("top", [None, 1])
def test_an_echo_is_reported_in_pieces(
    base: LoadedBase, tuned: dict[str, ModelSource], monkeypatch: pytest.MonkeyPatch, top: int | None
) -> None:
    echo = job("echo", tuned["base"], PROMPTS[2], echo=True, max_tokens=0, top_logprobs=top)
    whole = Served(base).submit(echo).run()
    monkeypatch.setattr(answer_module, "CHARS_PER_REPORT", 5)
    served = Served(base).submit(echo).run()
    pieces = [report["text"] for report in served.reports["echo"] if report["type"] == "text"]
    assert (max(map(len, pieces)), served.answer("echo")) == (5, whole.answer("echo"))


def test_prompts_are_scored_a_few_at_a_time(
    base: LoadedBase, tuned: dict[str, ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "PROMPT_TOKENS", 6)
    served = Served(base).submit(job("echo", tuned["base"], [], prompts=[PROMPTS[0]] * 4, echo=True, max_tokens=0))
    served.steps(1)
    assert [report["type"] for report in served.reports["echo"]].count("finished") == 2
    assert served.run().last("echo") == "done"


def test_a_prompt_that_is_refused_while_others_join_fails_its_request_only(
    base: LoadedBase, tuned: dict[str, ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(echo_module, "MAX_LOGITS_BYTES", 10 * 4 * base.vocabulary)
    served = Served(base, places=3).submit(
        job("refused", tuned["base"], [], prompts=[PROMPTS[0], PROMPTS[2]], echo=True),
        job("other", tuned["base"], PROMPTS[1], n=3),
    )
    with monkeypatch.context() as patch:
        patch.setattr(server_module, "PROMPT_TOKENS", 1)
        served.steps(2)
    served.run()
    assert [served.last(name) for name in ("refused", "other")] == ["refused", "done"]


def test_an_error_in_a_pass_ends_the_requests_that_took_part(
    base: LoadedBase, tuned: dict[str, ModelSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(batch: Batch) -> None:
        monkeypatch.undo()
        raise RuntimeError("broken")

    monkeypatch.setattr(Batch, "step", broken)
    served = Served(base, places=2).submit(*(job(str(number), tuned["base"], PROMPTS[0]) for number in range(3))).run()
    assert [served.last(str(number)) for number in range(3)] == ["failed", "failed", "done"]


def test_a_model_that_cannot_be_loaded_fails_and_the_others_are_answered(
    base: LoadedBase, alone: LoadedBase, tuned: dict[str, ModelSource], tmp_path: Path
) -> None:
    broken = ModelSource(tuned["base"].base, tmp_path, technique("lora"))
    jobs = [job("one", tuned["lora-1"], PROMPTS[0]), job("other", tuned["base"], PROMPTS[1])]
    served = Served(base).submit(*jobs)
    served.steps(3)
    served.submit(job("broken", broken, PROMPTS[0])).run()
    assert served.last("broken") == "failed"
    require_same(served, jobs, alone)


def test_an_error_in_one_answer_is_none_of_the_others(
    base: LoadedBase, alone: LoadedBase, tuned: dict[str, ModelSource]
) -> None:
    served = Served(base).submit(*(job(str(number), tuned["base"], PROMPTS[0]) for number in range(2)))
    served.steps(1)
    (bad,) = [row.answer for row in served.server._rows if row.answer.request_id == "0"]
    bad.sampler._temperature = "hot"  # type: ignore[assignment]
    assert served.run().last("0") == "failed"
    require_same(served, [job("1", tuned["base"], PROMPTS[0])], alone)


@pytest.mark.parametrize("family", ["mixtral", "falcon_h1"])
def test_other_families_are_answered_one_by_one(family: str, tmp_path: Path) -> None:
    source = ModelSource(make_model(tmp_path / "base", family, seed=3))
    base = LoadedBase(source, CPU, torch.float32)
    assert base.batch_key(source) is None
    served = Served(base).submit(job("first", source, PROMPTS[0]), job("second", source, PROMPTS[1])).run()
    assert served.ended == ["first", "second"]


def test_models_share_batches_where_peft_computes_them_together(
    base: LoadedBase, tuned: dict[str, ModelSource]
) -> None:
    keys = {name: base.batch_key(source) for name, source in tuned.items()}
    assert keys["base"] == keys["lora-1"] == keys["lora-2"]
    assert len({keys["base"], keys["dora"], keys["ia3"]}) == 3
    assert keys["virtual"] is None
