"""`attune adapters verify`: a published folder is what was published, and says what the trainer's model said."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from api.cli.adapters import adapters_app
from api.cli.errors import ExitCode
from api.cli.verify import comparison
from api.spec.manifest import Manifest, Provenance
from tests.api.cli.terminal import run_on_terminal
from tests.hostile import CATASTROPHIC
from tests.tiny_models import make_model
from tests.worker.recorder import train_here
from tests.worker.run_folders import make_run, random_rows
from worker.engine.publish.outputs import reply_to
from worker.engine.saving.atomic_folder import write_manifest

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    base = make_model(folder / "base", "llama")
    technique = {"type": "lora", "rank": 4, "rank_pattern": {"up_proj": 2}}
    options: dict[str, Any] = {"technique": technique, "export": {"merged": True}}
    run = make_run(folder / "run", base, train=random_rows(8, seed=4), training={"max_steps": 3}, **options)
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(recipe | {"merged": True}))
    train_here(run)
    return run


@pytest.fixture
def published(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run / "out" / "model", tmp_path / "model"))


def _verify(path: Path, *options: object) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(adapters_app, ["verify", str(path), "--json", *map(str, options)])
    return done.exit_code, json.loads(done.stdout) if done.stdout else {"message": done.output}


def _written_anew(folder: Path) -> None:
    """As one would who forges the manifest, too: what is looked at beside the hashes has to notice."""
    found = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").unlink()
    write_manifest(folder, Provenance(**found.model_dump(exclude={"files"})))


def _not_finite(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors[min(tensors)].flat[-1] = np.inf
    save_file(tensors, folder / WEIGHTS)
    _written_anew(folder)


def _of_another_rank(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": 3}))
    _written_anew(folder)


def _of_ranks_by_patterns(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    patterns = dict.fromkeys(CATASTROPHIC, 3) | {"(?i)up_PROJ": 3}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"rank_pattern": patterns}))
    _written_anew(folder)


def _cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])
    _written_anew(folder)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json was changed"),
        (lambda folder: (folder / "more.safetensors").touch(), "more.safetensors is not listed"),
        (_not_finite, "holds values that are not finite"),
        (_of_another_rank, "do not have rank 3"),
        (_of_ranks_by_patterns, "do not have rank 3"),
        (_cut, f"{WEIGHTS} cannot be read"),
    ],
)
def test_what_is_wrong_is_named(harm: Callable[[Path], object], told: str, published: Path) -> None:
    harm(published)
    code, found = _verify(published)
    assert code == ExitCode.CORRUPT
    assert any(told in problem for problem in found["problems"]), found["problems"]


def test_a_whole_folder_and_its_tar_are_verified(published: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar", "w") as archive:
        for path in published.iterdir():
            if path.is_file():
                archive.add(path, path.name)
    for path in (published, tmp_path / "model.tar"):
        code, found = _verify(path)
        assert (code, found["problems"], found["kind"]) == (ExitCode.OK, [], "adapter"), found
        assert found["tensors"] == 28


def test_a_terminal_shows_the_verdict_and_what_is_wrong(published: Path) -> None:
    code, shown = run_on_terminal("adapters", "verify", published)
    assert (code, shown.splitlines()[-1]) == (ExitCode.OK, "verified    yes"), shown
    _cut(published)
    code, shown = run_on_terminal("adapters", "verify", published)
    assert code == ExitCode.CORRUPT, shown
    assert f"\r\nproblem 1   {WEIGHTS} cannot be read: " in shown
    assert shown.splitlines()[-2] == "verified    NO"


def test_rows_of_the_data_may_be_left_out(published: Path) -> None:
    (published / "logprobs.json").unlink()
    code, found = _verify(published)
    assert (code, found["notes"][-1]) == (ExitCode.OK, "logprobs.json is missing"), found["notes"]


def test_on_its_base_an_adapter_says_what_the_trainers_model_said(published: Path, run: Path) -> None:
    code, found = _verify(published, "--base", (run / "base").resolve())
    assert code == ExitCode.OK, found
    assert found["base"]["differences"] == []
    assert found["comparison"]["greatest"] < 1e-4


def test_on_another_base_it_does_not(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_score", reply_to)  # here: a process of its own would import torch anew
    code, found = _verify(published, "--base", make_model(tmp_path / "other", "llama", seed=1))
    assert code == ExitCode.CORRUPT
    assert found["base"]["differences"] == ["model.safetensors differs from the file that was trained on"]
    assert found["problems"] == ["the loaded model's outputs differ from the recorded ones by more than the tolerance"]


def test_a_base_is_found_by_its_name_where_a_server_here_has_it(published: Path, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "base", tmp_path / "data" / "objects" / "base" / "digest")
    (published / "logprobs.json").unlink()
    code, found = _verify(published, "--base", "tiny", "--data-dir", tmp_path / "data")
    assert (code, found["base"]["differences"]) == (ExitCode.OK, [])
    assert found["base"]["path"].endswith("objects/base/digest")


@pytest.mark.pairs
def test_merged_weights_are_verified_by_themselves(published: Path) -> None:
    code, found = _verify(published / "merged")
    assert (code, found["kind"]) == (ExitCode.OK, "model"), found
    assert found["comparison"]["agrees"]


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    code, found = _verify(tmp_path)
    assert (code, "manifest.json" in found["message"]) == (ExitCode.REFUSED, True)
