"""How a training may end badly, and that nothing is published then."""

import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from api.spec import evaluation
from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from tests.tiny_models import make_model
from tests.worker.parity import ours
from tests.worker.recorder import Recorder, adapter, train_here
from tests.worker.run_folders import make_run, random_rows, run_trainer
from worker.engine import failpoint
from worker.engine.data import Data
from worker.engine.errors import TrainingError, as_training_error, print_traceback
from worker.engine.model.batches import MicroBatch
from worker.engine.model.device import device_of_process
from worker.engine.model.load import load_trainable
from worker.engine.model.trainable import TrainableModel
from worker.engine.publish import export, outputs, parity
from worker.shared import memory_overrides
from worker.train import train


def _run(folder: Path, base: Path, *, steps: int = 6, **options: Any) -> Path:
    options.setdefault("technique", {"type": "lora", "rank": 4})
    training = {"max_steps": steps, "learning_rate": options.pop("learning_rate", 1e-3)}
    return make_run(folder, base, train=random_rows(12, seed=5), training=training, **options)


@pytest.mark.parametrize("steps", [2, 12])
@pytest.mark.parametrize("technique", ["lora", "full"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_absurd_learning_rate_ends_as_diverged(
    technique: str, precision: str, steps: int, tiny_llama: Path, tmp_path: Path
) -> None:
    run = _run(
        tmp_path / "run",
        tiny_llama,
        steps=steps,
        learning_rate=1e9,
        technique={"type": technique},
        hardware={"precision": precision},
    )
    with pytest.raises(TrainingError) as caught:
        train_here(run)
    assert caught.value.reason is FailureReason.DIVERGED
    if (steps, technique) == (12, "full"):  # else the check of the published files may find it
        assert re.fullmatch(r"The loss diverged at step \d+, .* a learning rate below 1e\+09\.", caught.value.message)
    assert not (run / "out" / "model").exists()


def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = {"type": "lora", "rank": 4, "dropout": 0.2}
    calm = train_here(_run(tmp_path / "calm", tiny_llama, technique=lora))
    monkeypatch.setenv(failpoint.VARIABLE, "step:3:oom*2")
    monkeypatch.setattr(failpoint, "_tries", {})
    pressed = train_here(_run(tmp_path / "pressed", tiny_llama, technique=lora))
    assert [warning["message"] for warning in pressed.of("warning")] == [
        "Out of memory at step 3: continuing with micro-batches of 32 tokens.",
        "Out of memory at step 3: continuing with micro-batches of 16 tokens.",
    ]
    for pressed_step, theirs in zip(pressed.of("metrics"), calm.of("metrics"), strict=True):
        assert pressed_step["tokens"] == theirs["tokens"]
        assert pressed_step["train_loss"] == pytest.approx(theirs["train_loss"], abs=0.05)  # dropout falls elsewhere


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has not the room for more than 40 tokens in a pass without gradients."""
    whole = TrainableModel.token_scores

    def scores(self: TrainableModel, batch: MicroBatch, scoring: Any = None) -> Any:
        if batch.tokens.numel() > 40 and not torch.is_grad_enabled():
            raise torch.OutOfMemoryError("no room")
        return whole(self, batch, scoring)

    monkeypatch.setattr(TrainableModel, "token_scores", scores)


@pytest.mark.usefixtures("short_memory")
def test_an_evaluation_that_runs_out_of_memory_takes_less_at_once(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "COMPARED_TOKENS", (1, 1))  # a single row has room
    report = train_here(_run(tmp_path / "run", tiny_llama, steps=2, validation=random_rows(6, seed=6)))
    (warning,) = report.of("warning")
    assert warning["message"].startswith("Out of memory while evaluating after step 1: continuing with")
    assert report.of("done")


@pytest.mark.usefixtures("short_memory")
def test_a_comparison_that_runs_out_of_memory_takes_less_at_once(tiny_llama: Path, tmp_path: Path) -> None:
    report = train_here(_run(tmp_path / "run", tiny_llama, steps=2))
    (warning,) = report.of("warning")
    assert warning["message"].startswith("Out of memory in the evaluation of the base model: continuing with")


@pytest.mark.usefixtures("short_memory")
def test_a_reference_that_runs_out_of_memory_takes_less_at_once(tiny_llama: Path, tmp_path: Path, seed: int) -> None:
    dpo = ours.begin(tiny_llama, tmp_path / "run", ours.settled("dpo", {}, budget_tokens=256))
    rng, told = np.random.default_rng(seed), list[str]()
    rows = ours.rows_of([(ours.drawn(rng, 9, 9), [0.0] * 4 + [1.0] * 5) for _ in range(12)], width=2)
    data = Data(rows, rows.take(np.arange(0)), seed=0).prepare(dpo)
    data.compute_references(dpo, told.append)
    assert (len(told), dpo.budget_tokens) == (3, 32)
    assert np.isfinite(data.train.per_row["reference"]).all()


@pytest.mark.parametrize("said", ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_what_libraries_say_of_memory_halves_the_micro_batch(
    said: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, tries = TrainableModel.token_scores, itertools.count()

    def scores(self: TrainableModel, batch: MicroBatch, scoring: Any = None) -> Any:
        if torch.is_grad_enabled() and next(tries) == 0:
            raise RuntimeError(said)
        return whole(self, batch, scoring)

    monkeypatch.setattr(TrainableModel, "token_scores", scores)
    report = train_here(_run(tmp_path / "run", tiny_llama, steps=1))
    assert [warning["message"] for warning in report.of("warning")] == [
        "Out of memory at step 1: continuing with micro-batches of 32 tokens."
    ]


def test_an_attempt_with_less_memory_trains_the_same_recipe(tiny_llama: Path, tmp_path: Path) -> None:
    whole, lean_run = (_run(tmp_path / name, tiny_llama) for name in ("whole", "lean"))
    recipe = ResolvedRecipe.model_validate_json((lean_run / "recipe.json").read_bytes())
    less = recipe.model_copy(update={"micro_batch_tokens": 24, "gradient_checkpointing": True})
    memory_overrides.write(lean_run, less, recipe)
    found, expected = (train_here(run).of("metrics") for run in (lean_run, whole))
    for step, theirs in zip(found, expected, strict=True):
        assert step["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
    manifests = [json.loads((run / "out" / "model" / "manifest.json").read_bytes()) for run in (whole, lean_run)]
    assert manifests[0]["recipe_sha256"] == manifests[1]["recipe_sha256"]


def test_memory_that_never_suffices_ends_with_numbers(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(failpoint.VARIABLE, "step:2:oom*99")
    monkeypatch.setattr(failpoint, "_tries", {})
    with pytest.raises(TrainingError, match="step 2, even with micro-batches of 8 tokens") as caught:
        train_here(_run(tmp_path / "run", tiny_llama))
    assert caught.value.reason is FailureReason.OUT_OF_MEMORY
    assert failpoint._tries == {2: 4}


def test_a_base_that_brings_code_is_refused(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "llama")
    config = (base / "config.json").read_text()
    (base / "config.json").write_text(config.replace("{", '{"auto_map": {"AutoConfig": "evil.Evil"},', 1))
    with pytest.raises(TrainingError, match="never run"):
        train_here(_run(tmp_path / "run", base))


def test_unknown_target_modules_are_named(tiny_llama: Path, tmp_path: Path) -> None:
    run = _run(tmp_path / "run", tiny_llama, technique={"type": "lora", "target_modules": ["q_proj", "nonsense"]})
    with pytest.raises(TrainingError, match="no adaptable layer called nonsense") as caught:
        train_here(run)
    assert caught.value.reason is FailureReason.INVALID_RECIPE


def test_an_unexpected_exception_reaches_the_user_as_a_sentence_and_the_log_as_itself(
    tiny_llama: Path, tmp_path: Path
) -> None:
    run = _run(tmp_path / "run", tiny_llama)
    (run / "data" / "train.safetensors").unlink()
    finished = run_trainer(run)
    assert finished.code == 1
    assert finished.last["reason"] == "internal"
    assert str(tmp_path) not in finished.last["message"]
    assert "FileNotFoundError" in finished.log


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), FailureReason.DISK_FULL),
        (RuntimeError("I/O error: No space left on device (os error 28)"), FailureReason.DISK_FULL),
        (MemoryError(), FailureReason.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), FailureReason.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: out of memory"), FailureReason.OUT_OF_MEMORY),
        (torch.AcceleratorError("CUDA error: out of memory"), FailureReason.OUT_OF_MEMORY),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            FailureReason.OUT_OF_MEMORY,
        ),
        (RuntimeError("cuDNN: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), FailureReason.OUT_OF_MEMORY),
        (OSError(12, "Cannot allocate memory"), FailureReason.OUT_OF_MEMORY),
        (SafetensorError("I/O error: Cannot allocate memory (os error 12)"), FailureReason.OUT_OF_MEMORY),
        (RuntimeError("std::bad_alloc"), FailureReason.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: device-side assert triggered"), FailureReason.INTERNAL),
        (torch.AcceleratorError("CUDA error: unspecified launch failure\nSearch for it"), FailureReason.INTERNAL),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), FailureReason.WORKER_FAULT),
        (
            torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nSearch for it"),
            FailureReason.WORKER_FAULT,
        ),
        (KeyError("out of memory, says a row"), FailureReason.INTERNAL),
        (KeyError("/secret/path"), FailureReason.INTERNAL),
    ],
)
def test_exceptions_become_reasons(error: Exception, reason: FailureReason) -> None:
    assert as_training_error(error).reason is reason
    assert "/secret" not in as_training_error(error).message


def test_an_error_of_the_gpu_is_named() -> None:
    message = as_training_error(torch.AcceleratorError("CUDA error: unspecified launch failure\nSearch for it")).message
    assert message.startswith("The GPU reported an error: unspecified launch failure. ")


def test_a_gpu_that_torch_cannot_use_is_a_fault_of_the_worker(tiny_llama: Path, tmp_path: Path) -> None:
    finished = run_trainer(_run(tmp_path / "run", tiny_llama), env={"CUDA_VISIBLE_DEVICES": "GPU-none"})
    assert finished.code == 1
    assert finished.last["reason"] == "worker_fault"
    assert finished.last["message"].startswith("The worker's GPU cannot be used (")


def test_a_driver_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 12040). Please update it at https"
        )

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.cuda, "init", refuse)
    with pytest.raises(TrainingError, match=r"\(The NVIDIA driver on your system is too old \(found version 12040\)\)"):
        device_of_process()


def test_files_that_are_not_the_trained_model_are_not_published(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "get_peft_model_state_dict", _slightly_wrong(export))
    run = _run(tmp_path / "run", tiny_llama)
    with pytest.raises(TrainingError, match="do not reproduce the trained model") as caught:
        train_here(run)
    assert not (run / "out" / "model").exists()
    assert re.search(r"4 rows of the data differ by \S+ at most, and 0.0001 is allowed", caught.value.message)
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("parity: row 3, output ")]
    assert re.search(r"largest difference: (row \d, output \d+ of \d+: \S+ against \S+)\.", caught.value.message)


@pytest.mark.parametrize("technique", [ours.LORA, {"type": "prompt", "tokens": 4}])
def test_prompts_of_one_token_fail_no_proof(technique: dict[str, Any], tiny_llama: Path, tmp_path: Path) -> None:
    recipe = ours.settled("supervised", {}, technique)
    model = ours.begin(tiny_llama, tmp_path / "run", recipe).model
    rows = outputs.parity_rows(ours.rows_of([([token], [0.0]) for token in (5, 6)]))
    path, memory = outputs.outputs_in_training(model, recipe, rows), outputs.outputs_in_memory(model, recipe, rows)
    assert [len(each) for each in path] == [1, 1]
    parity.check_forward_parity(path, memory, recipe)


@pytest.mark.parametrize("rows", ["training", "validation"])
def test_long_prompts_with_short_answers_have_not_diverged(rows: str, tiny_llama: Path, tmp_path: Path) -> None:
    """The first 128 tokens hold no answer, and validation rows may be answered wrongly with confidence."""
    rng = np.random.default_rng(5)

    def row(answer: int) -> Any:
        tokens_T = np.concatenate([rng.integers(0, 250, 140), [answer, 7]])
        return tokens_T, (np.arange(142) >= 140).astype(np.float32)

    run = make_run(
        tmp_path / "run",
        tiny_llama,
        train=[row(5) for _ in range(4)],
        validation=[row(9) for _ in range(4)] if rows == "validation" else [],
        max_length=256,
        technique={"type": "full"},
        training={"max_steps": 40, "learning_rate": 1e-2, "keep_best": False},
        hardware={"micro_batch_tokens": 1024},
    )
    assert train_here(run).of("done")


def _slightly_wrong(module: Any) -> Any:
    right = module.get_peft_model_state_dict
    return lambda *args, **kwargs: {name: tensor * 1.5 for name, tensor in right(*args, **kwargs).items()}


def test_two_runs_of_the_same_recipe_publish_the_same_bytes(tiny_llama: Path, tmp_path: Path) -> None:
    runs = [_run(tmp_path / name, tiny_llama) for name in ("one", "two")]
    for run in runs:
        train_here(run)
    assert adapter(runs[0]) == adapter(runs[1])
    config = [(run / "out" / "model" / "adapter_config.json").read_bytes() for run in runs]
    assert config[0] == config[1]


def test_signs_of_life_are_sent_while_a_model_is_loaded_and_published(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: dict[str, int] = {}
    recorder = Recorder(on_report=lambda report: blocks.update({report.get("phase", report["type"]): recorder.blocks}))

    def load(*arguments: Any, **options: Any) -> TrainableModel:
        blocks["load"] = recorder.blocks
        return load_trainable(*arguments, **options)

    monkeypatch.setattr("worker.train.load_trainable", load)
    train(_run(tmp_path / "run", tiny_llama, steps=1), recorder)  # type: ignore[arg-type]
    assert [blocks[name] for name in ("load", "metrics", "exporting", "verifying")] == [1, 0, 1, 1]


def test_a_full_disk_loses_the_traceback_and_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    print_traceback(ValueError("the cause"))
