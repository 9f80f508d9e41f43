"""The paths that only a GPU takes, traced without one: shapes, types, devices, and the operators that are called.

`make check-cuda` installs a torch with CUDA, whose operators for CUDA tensors are registered without a GPU, too.
"""

import mmap
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn.attention import varlen

from api.estimate.work import PACKED_FAMILIES
from api.infra.child_environment import child_environment
from api.infra.child_process import ForkServer
from api.spec.resolve import ResolvedRecipe
from benchmarks.gpu.rows import random_pairs, random_rows, recipe_for
from tests.cuda.fake_gpu import CUDA, HOPPER, TURING, Recorder, fake_gpu, on_gpu
from tests.tiny_models import FAMILIES, make_encoder, make_model
from tests.worker import pairs
from worker.engine import loop
from worker.engine.data import load_data
from worker.engine.errors import GPU_FAULTS, OUT_OF_MEMORY_MESSAGES
from worker.engine.generation.decoding import decode
from worker.engine.generation.key_value_cache import KeyValueCache
from worker.engine.generation.token_draws import TokenDraws
from worker.engine.model.batches import micro_batches
from worker.engine.model.load import load_trainable
from worker.engine.model.temporary_merge import merged_adapters
from worker.engine.model.trainable import TrainableModel
from worker.engine.optimizer import adamw, clipped_step
from worker.engine.saving.training_state import Progress
from worker.methods import METHODS, MethodContext
from worker.shared.arrays import Rows
from worker.supervisor.node import LIBRARIES

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no CUDA: make check-cuda"),
]

LENGTHS = [5, 31, 17, 8, 24, 3]
ROWS = random_rows(LENGTHS, 250)
PROMPTS = [20, 40, 16]
LAYERS, MAX_TOKENS = 2, 4
FLASH, FLASH_BACKWARD = "torch_attn::_varlen_attn", "torch_attn::_varlen_attn_backward"
PAIRS = random_pairs(PROMPTS, 6, 250)
SOFT_CAPPED = {"gemma2"}
WINDOWED = {family for family in PACKED_FAMILIES if FAMILIES[family].get("sliding_window")}


def load(folder: Path, family: str, precision: str = "bfloat16", technique: str = "lora") -> TrainableModel:
    base = make_model(folder / "base", family=family, seed=0)
    return load_trainable(base, recipe_for(technique, ROWS, precision, 4096), torch.device("cpu"))


def score(model: TrainableModel, rows: Rows = ROWS) -> torch.Tensor:
    """Return the summed log-probabilities of one micro-batch of the rows, as a step lays it out."""
    [batch] = micro_batches(rows, 4096, model.layout, CUDA)
    scores = model.token_scores(batch)
    supervised = int((rows.loss_weights > 0).sum())
    for values in vars(scores).values():
        assert (values.shape, values.dtype, values.device) == ((supervised,), torch.float32, CUDA)
    return scores.smoothed_logprobs.sum()


def step(model: TrainableModel, recipe: ResolvedRecipe, run: Path, rows: Rows, patch: pytest.MonkeyPatch) -> None:
    """One step of a training, after the pass of its reference. The host may read the step's metrics, all at once."""
    patch.setattr(loop, "as_floats", lambda sums: dict.fromkeys(sums, 1.0))
    objective = METHODS[recipe.method.type](MethodContext(recipe, run, model, print))
    rows = objective.prepare(rows)
    if objective.has_reference:
        objective.compute_reference(rows, np.arange(len(rows)), lambda: None)
    progress = Progress(micro_batch_tokens=objective.budget_tokens)
    optimizer = adamw(model.masters, recipe)
    loop.Loop(recipe, model, objective, optimizer, rows, progress, pytest.fail).step()


def kernels(recorder: Recorder) -> set[str]:
    return {call.operator for call in recorder.calls if "attention" in call.operator or "varlen" in call.operator}


@pytest.mark.parametrize("family", sorted(PACKED_FAMILIES))
def test_packed_rows_take_flash_attention_and_nothing_waits(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tmp_path, family)
    with fake_gpu(monkeypatch) as recorder:
        score(on_gpu(model)).backward()
    assert recorder.blocking_copies() == []
    if family in SOFT_CAPPED:
        assert kernels(recorder) == set(), "soft-capped scores have no kernel"
        return
    assert kernels(recorder) == {FLASH, FLASH_BACKWARD}
    assert len(recorder.of(FLASH_BACKWARD)) == LAYERS
    calls = [call for call in recorder.calls if call.operator == FLASH]
    assert len(calls) == LAYERS
    for call in calls:
        query, key, value, borders, same = call.arguments[:5]
        assert query.shape[0] == key.shape[0] == value.shape[0] == sum(LENGTHS)
        assert {query.dtype, key.dtype, value.dtype} == {torch.bfloat16}
        assert (borders.shape, borders.dtype, borders.device, same) == ((len(LENGTHS) + 1,), torch.int32, CUDA, borders)
    if family in WINDOWED:
        windows = [call.arguments[9] for call in calls]
        assert [7, 0] in windows, "a window of 8 tokens is a token and the seven before it"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("technique", ["lora", "full"])
def test_a_step_waits_for_nothing(
    technique: str, recompute: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_model(tmp_path / "base", family="llama", seed=0)
    recipe = recipe_for(technique, ROWS, "bfloat16", 48, recompute=recompute)
    model = load_trainable(base, recipe, torch.device("cpu"))
    with fake_gpu(monkeypatch) as recorder:
        step(on_gpu(model), recipe, tmp_path, ROWS, monkeypatch)
    micro_batches_of_step = 3
    assert len(recorder.of(FLASH_BACKWARD)) == micro_batches_of_step * LAYERS
    assert len(recorder.of("_fused_rms_norm_backward")) >= micro_batches_of_step * 2 * LAYERS
    assert len(recorder.of("_fused_adamw")) == 1
    assert recorder.blocking_copies() == []
    assert recorder.reads == 0


READS = {"dpo": 1, "kto": 2, "ppo": MAX_TOKENS + 2, "reinforcement": MAX_TOKENS + 2}
"""Number of tensors that the host reads, by method: log-probabilities of the reference, those of KTO's mismatched
answers and, of sampled answers, the tokens at each position and the old log-probabilities. The other methods read none.
"""


@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_every_method_waits_only_for_what_the_host_needs(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = {"grader": pairs.GRADER, "max_tokens": MAX_TOKENS, "kl_coefficient": 0.1}
    monkeypatch.setattr(pairs, "OPTIONS", {"ppo": sampling, "reinforcement": sampling | {"num_iterations": 2}})
    base = make_model(tmp_path / "base", "llama")
    recipe = pairs.make(tmp_path / "run", base, "lora", method, seed=1).model_copy(update={"precision": "bfloat16"})
    model = load_trainable(base, recipe, torch.device("cpu"))
    rows = load_data(tmp_path / "run" / "data", recipe).train
    with fake_gpu(monkeypatch) as recorder:
        step(on_gpu(model), recipe, tmp_path / "run", rows, monkeypatch)
    assert recorder.of(FLASH_BACKWARD)
    assert recorder.blocking_copies() == []
    assert recorder.reads == READS.get(method, 0)


@pytest.mark.parametrize("family", sorted(PACKED_FAMILIES - SOFT_CAPPED))
def test_pairs_that_share_their_prompts_take_flash_attention_and_nothing_waits(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tmp_path, family)
    with fake_gpu(monkeypatch) as recorder:
        placed = on_gpu(model)
        score(placed, PAIRS).backward()
    assert all(master.grad is not None for master in placed.masters.values())
    assert kernels(recorder) == {FLASH, FLASH_BACKWARD}
    assert recorder.blocking_copies() == []
    answers = [6, 7] * len(PROMPTS)
    queries, keys = sum(PROMPTS) + sum(answers), sum(PROMPTS) + 2 * sum(PROMPTS) + sum(answers)
    for call in (call for call in recorder.calls if call.operator == FLASH):
        query, key, value, query_borders, key_borders = call.arguments[:5]
        assert (query.shape[0], key.shape[0], value.shape[0]) == (queries, keys, keys)
        assert query_borders.shape == key_borders.shape == (len(PROMPTS) + len(answers) + 1,)


@pytest.mark.parametrize("merges", [False, True])
def test_sampling_waits_for_nothing_but_the_tokens(
    merges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The passes over prompts and tokens. With a read token of 0, the second answer is the first to end."""
    model = load(tmp_path, "llama")
    with fake_gpu(monkeypatch) as recorder:
        placed = on_gpu(model)
        draws = TokenDraws((1,), [0, 0, 1], temperature=1.0, max_tokens=3)
        prompts = [np.arange(length, dtype=np.int32) for length in (5, 5, 9)]
        with torch.no_grad(), merged_adapters(placed.model) if merges else nullcontext():
            recorder.calls.clear()
            answers = decode(
                placed, prompts, np.arange(3), draws, max_tokens=3, end_tokens=frozenset(), budget_tokens=64
            )
    assert [len(answer) for answer in answers] == [3, 3, 3]
    assert recorder.reads == 3, "the tokens of each position"
    assert recorder.blocking_copies() == []
    assert len(recorder.of("_varlen_attn")) == LAYERS
    assert bool(recorder.of("addmm")) is not merges, "the products with LoRA's B"


def test_rows_move_without_a_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last rows of a cache take the places of ended answers."""
    with fake_gpu(monkeypatch) as recorder:
        cache = KeyValueCache(np.array([5, 5, 9]), 24, CUDA)
        keys = torch.empty(3, 2, 8, device=CUDA)
        cache.write(0, torch.arange(3, device=CUDA), cache.position_B, keys, keys)
        assert cache.keep(np.array([False, True, True])).tolist() == [2, 1]
    assert recorder.blocking_copies() == []


def test_merged_weights_are_rounded_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tmp_path, "llama")
    with fake_gpu(monkeypatch) as recorder:
        placed = on_gpu(model)
        weight = placed.network.get_submodule("model.layers.0.mlp.up_proj.base_layer").weight
        with merged_adapters(placed.model):
            assert (weight.dtype, weight.device) == (torch.bfloat16, CUDA)
    noise = recorder.of("aten::random")
    assert noise
    assert all(call.arguments[0].is_cuda for call in noise)
    assert recorder.blocking_copies() == []


@pytest.mark.parametrize("family", sorted(PACKED_FAMILIES - SOFT_CAPPED))
def test_the_kernel_takes_what_it_is_given(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's own code with the arguments of a training, down to the kernel's signature."""
    model = load(tmp_path, family)
    monkeypatch.setattr(varlen, "_should_use_cudnn", lambda *_: False)
    with fake_gpu(monkeypatch) as recorder:
        score(on_gpu(model))
        for call in recorder.of("_varlen_attn"):
            attended, _, _ = varlen._varlen_attn._init_fn(*call.arguments, **call.options)
            assert (attended.shape, attended.dtype) == (call.arguments[0].shape, torch.bfloat16)
    assert recorder.of("_flash_attention_forward")


@pytest.mark.parametrize(("precision", "capability"), [("float32", HOPPER), ("float32", TURING), ("float16", TURING)])
def test_without_flash_attention_groups_of_rows_take_fused_kernels(
    precision: str, capability: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(tmp_path, "llama", precision)
    heads: list[tuple[int, int]] = []
    fused = functional.scaled_dot_product_attention

    def recorded(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> torch.Tensor:
        heads.append((query.shape[1], key.shape[1]))
        return fused(query, key, value, **options)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", recorded)
    with fake_gpu(monkeypatch, capability) as recorder:
        score(on_gpu(model))
    assert recorder.of("varlen") == []
    assert set(heads) == {(4, 4)}, "the float32 kernel knows no shared key heads"


@pytest.mark.parametrize("technique", ["lora", "dora", "full", "prefix", "prompt", "ia3", "bottleneck"])
def test_every_technique_runs_in_bfloat16(technique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tmp_path, "llama", technique=technique)
    with fake_gpu(monkeypatch):
        placed = on_gpu(model)
        for batch in micro_batches(ROWS, 4096, placed.layout, CUDA):
            scores = placed.token_scores(batch)
            assert scores.logprobs.device == CUDA
            scores.smoothed_logprobs.sum().backward()
            if not placed.layout.packed:
                break
    gradients = [master.grad for master in placed.masters.values()]
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients)


@pytest.mark.parametrize(("kind", "method"), [("causal_lm", "reward"), ("encoder", "classification")])
def test_heads_score_whole_rows(kind: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_encoder(tmp_path / "base", "bert") if kind == "encoder" else make_model(tmp_path / "base", "llama")
    recipe = pairs.make(tmp_path / "run", base, "lora", method, seed=1).model_copy(update={"precision": "bfloat16"})
    model = load_trainable(base, recipe, torch.device("cpu"))
    rows = load_data(tmp_path / "run" / "data", recipe).train
    with fake_gpu(monkeypatch):
        placed = on_gpu(model)
        for batch in micro_batches(rows, 4096, placed.layout, CUDA):
            scores = placed.sequence_scores(batch)
            assert (scores.dtype, scores.device, scores.ndim) == (torch.float32, CUDA, 2)
            scores.sum().backward()
    assert all(master.grad is not None for master in placed.masters.values())


@pytest.mark.parametrize("technique", ["lora", "full"])
def test_an_update_waits_for_nothing(technique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(tmp_path, "llama", technique=technique)
    recipe = recipe_for(technique, ROWS, "bfloat16", 4096)
    with fake_gpu(monkeypatch) as recorder:
        placed = on_gpu(model)
        optimizer = adamw(placed.masters, recipe)
        for master in placed.masters.values():
            master.grad = torch.empty_like(master)
        norm = clipped_step(optimizer, 1.0, 1e-3)
        placed.copy_from_masters()
        assert norm.device == CUDA
    assert recorder.of("_fused_adamw")
    assert recorder.blocking_copies() == []


def test_messages_of_errors_are_those_of_the_installed_libraries() -> None:
    names = {message for message in OUT_OF_MEMORY_MESSAGES if message.startswith(("CU", "cuda"))} | {*GPU_FAULTS}
    libraries = [Path(torch.__file__).parent / "lib" / "libtorch_cuda.so"]
    libraries += Path(torch.__file__).parents[1].glob("nvidia/**/lib*.so*")
    for path in libraries:
        if names and path.stat().st_size:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                names -= {name for name in names if content.find(name.encode()) >= 0}
    assert names == set(), "names that no library has"


def test_four_bit_kernels_exist_for_this_cuda() -> None:
    spec = find_spec("bitsandbytes")
    assert spec is not None
    assert spec.origin is not None
    name = f"libbitsandbytes_cuda{(torch.version.cuda or '').replace('.', '')}.so"
    assert (Path(spec.origin).parent / name).exists()


def test_a_fork_server_that_imported_what_gpu_workers_preload_can_still_fork(tmp_path: Path) -> None:
    server = ForkServer(*LIBRARIES)
    with (tmp_path / "log").open("ab") as log:
        child = server.start("tests.cuda.forked", environment=child_environment("0"), output=log)
        code = child.wait(60)
    server.close()
    assert code == 0, (tmp_path / "log").read_text()
