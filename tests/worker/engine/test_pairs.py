"""Every technique with every method that it may be combined with learns, leaves the frozen weights alone, and publishes
files that plain peft and transformers load. A fixed part of the pairs runs always, all of them under `make pairs`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_models import make_encoder, make_model
from tests.worker import pairs

FAMILY = {"causal_lm": "llama", "encoder": "bert"}
WIDE = {"qlora": "_wide"}
LEGAL = [(each.technique, each.method, FAMILY[each.kind] + WIDE.get(each.technique, "")) for each in pairs.LEGAL]
PADDED = [("lora", method, "falcon_h1") for method in ("supervised", "dpo", "reinforcement")]
ALWAYS = {
    "lora": {method for _, method, _ in LEGAL},
    "full": {"supervised", "ppo"},
    "prefix": {"reward", "dpo"},
}
"""Methods that are always tried with a technique. The others: one method on each kind of model."""
OTHERS = {("supervised", "llama"), ("classification", "bert")}
FALL = 0.7
"""The loss of the last steps, as a share of that of the first."""


def _case(technique: str, method: str, family: str, *, always: bool | None = None) -> Any:
    if always is None:
        if family == "falcon_h1":
            return _case(technique, method, family, always=method not in pairs.OPTIONS)
        alone = (method, family.removesuffix("_wide")) in OTHERS
        always = method in ALWAYS[technique] if technique in ALWAYS else alone
    return pytest.param(
        technique, method, family, id=f"{technique}-{method}-{family}", marks=[] if always else [pytest.mark.pairs]
    )


@pytest.fixture(scope="session")
def families(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    encoders = {family: make_encoder(folder / family, family) for family in ("bert", "bert_wide")}
    return bases | encoders | {"llama_wide": make_model(folder / "llama_wide", "llama_wide")}


@pytest.fixture(scope="session")
def judge(families: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published reward model with its base beside it."""
    run = tmp_path_factory.mktemp("judge") / "run"
    pairs.make(run, families["llama"], "lora", "reward", seed=1, steps=5)
    pairs.train(run)
    shutil.copytree(families["llama"], run / "out" / "model" / "base")
    return run / "out" / "model"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs leave what they published, for the one process that reloads all of it."""
    return tmp_path_factory.mktemp("published")


@pytest.mark.parametrize(("technique", "method", "family"), [_case(*each) for each in LEGAL + PADDED])
def test_a_pair_learns_and_leaves_the_frozen_weights_alone(
    technique: str, method: str, family: str, families: dict[str, Path], judge: Path, published: Path
) -> None:
    run = published / f"{technique}-{method}-{family}"
    pairs.make(run, families[family], technique, method, seed=3, judge=judge)
    trained = pairs.train(run)
    if method in pairs.OPTIONS:
        assert trained.reward_before is not None
        assert trained.reward_after is not None
        assert trained.reward_after > trained.reward_before
    else:
        losses = [metrics["train_loss"] for metrics in trained.metrics]
        assert np.mean(losses[-3:]) < FALL * losses[0]
    assert trained.frozen_after == trained.frozen_before
    assert trained.trained_after != trained.trained_before


@pytest.mark.parametrize(("technique", "method", "family"), [_case(*each, always=each[0] == "lora") for each in LEGAL])
def test_at_a_learning_rate_of_zero_nothing_moves(
    technique: str, method: str, family: str, families: dict[str, Path], judge: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    recipe = pairs.make(run, families[family], technique, method, seed=3, steps=2, judge=judge)
    still = recipe.model_copy(update={"learning_rate": 0.0})
    (run / "recipe.json").write_text(still.model_dump_json())
    trained = pairs.train(run, publishes=False)
    assert trained.trained_after == trained.trained_before
    if method not in pairs.OPTIONS:
        first, second = (metrics["train_loss"] for metrics in trained.metrics)
        assert first == pytest.approx(second, rel=1e-5)


def test_what_was_published_gives_the_trainers_outputs_in_a_fresh_process(published: Path) -> None:
    """In plain peft and transformers: tests/worker/reload_program.py imports nothing of ours but `load_bottleneck`."""
    runs = sorted(path for path in published.iterdir() if (path / "out" / "model").exists())
    if not runs:
        pytest.skip("the pairs run first, in the same process")
    program = Path(__file__).parents[1] / "reload_program.py"
    done = subprocess.run([sys.executable, program, *runs], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    differences = json.loads(done.stdout.splitlines()[-1])
    assert len(differences) == len(runs)
    assert {name: found for name, found in differences.items() if found > 1e-4} == {}
