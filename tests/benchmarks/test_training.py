"""The training benchmark: the same tokens for all, honest figures from both kinds of runs, and what the table says."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.relations import bases
from benchmarks.training import table
from benchmarks.training.environments import PEERS, Peer
from benchmarks.training.peers.rows import sequences
from benchmarks.training.prepared import Prepared, prepare_rows, read_rows
from benchmarks.training.runs import Failed, run_ours, run_peer
from benchmarks.training.workloads import WORKLOADS
from worker.convert import convert
from worker.shared.arrays import load_rows

Prepare = Callable[[str, tuple[int, ...]], Prepared]


def measured(*, ours: list[float], theirs: list[float], losses: tuple[float, float] = (2.0, 2.0)) -> table.Measured:
    """Return rounds in which only the useful tokens a second and the losses were measured."""
    rounds: list[list[table.Figures]] = [
        [{"tokens_per_s": value, "first_step_s": 1 / value, "heldout_loss": loss} for value in values]
        for values, loss in zip((ours, theirs), losses, strict=True)
    ]
    return table.Measured("skewed", "chat", rounds[0], {"TRL best": rounds[1]})


def test_a_ratio_is_how_many_times_better_the_median_is() -> None:
    speed, wait, _ = table.comparisons(measured(ours=[300, 100, 200], theirs=[50, 90, 40]))

    assert speed == {
        "workload": "skewed",
        "metric": "tokens_per_s",
        "ours": 200,
        "peer": "TRL best",
        "peer_value": 50,
        "ratio": 4.0,
        "rounds": 3,
        "ours_spread": [100, 300],
        "peer_spread": [40, 90],
    }
    assert wait["ratio"] == pytest.approx(4.0)


def test_trainings_whose_losses_disagree_are_not_compared() -> None:
    rows = table.comparisons(measured(ours=[300, 300], theirs=[50, 50], losses=(2.0, 2.1)))

    assert {row["ratio"] for row in rows} == {None}
    assert rows[0]["void"] == "held-out losses differ: 2.000 and 2.100, with a noise of 0.040"


def test_noise_is_what_other_seeds_change() -> None:
    ours = [{"heldout_loss": loss} for loss in (1.9, 2.0, 2.15)]
    assert table.disagreement(ours, [{"heldout_loss": 2.2}]) is None
    assert table.disagreement(ours, [{"heldout_loss": 2.3}]) is not None


def test_a_peer_without_figures_is_listed_with_the_reason(tmp_path: Path) -> None:
    result = measured(ours=[300], theirs=[50])
    result.absent["ms-swift"] = "pip could not install it"

    table.write_json(tmp_path / "bench" / "training.json", [result])

    absent = [row for row in json.loads((tmp_path / "bench" / "training.json").read_text()) if "void" in row]
    assert {(row["peer"], row["peer_value"], row["ratio"], row["rounds"]) for row in absent} == {
        ("ms-swift", None, None, 0)
    }
    text = table.markdown(result)
    assert "| useful tokens/s | 300 | 50 · 6.00× |" in text
    assert "- ms-swift: pip could not install it" in text


@pytest.mark.parametrize("name", ["skewed", "dpo"])
def test_peers_get_our_tokens_and_the_chat_templates(name: str, prepared_rows: Prepare) -> None:
    """They equal what transformers renders, so that no contestant trains on other text."""
    prepared = prepared_rows(name, WORKLOADS[name].lengths[:4])
    arrays = load_rows(prepared.folder / "data" / "train.safetensors")
    uploaded = read_rows(prepared.folder / "train.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(prepared.base)

    given = [each for row in read_rows(prepared.folder / "peer-train.jsonl") for each in sequences(row).values()]

    assert len(given) == 4 * arrays.width
    for (tokens, labels), (our_tokens, our_weights) in zip(given, arrays, strict=True):
        end = len(tokens)
        assert tokens == our_tokens.tolist()[:end]
        assert labels == [token if weight else -100 for token, weight in zip(tokens, our_weights[:end], strict=True)]
        assert not our_weights[end:].any()
    conversations = [conversation for row in uploaded for conversation in _conversations(row)]
    for (tokens, _), conversation in zip(given, conversations, strict=True):
        rendered = str(tokenizer.apply_chat_template(conversation, tokenize=False))
        assert str(tokenizer.decode(tokens)).rstrip("\n") == rendered.rstrip("\n")


def _conversations(row: dict[str, Any]) -> list[Any]:
    if "messages" in row:
        return [row["messages"]]
    return [row["prompt"] + row[side] for side in ("chosen", "rejected")]


def test_rows_of_equal_length_have_the_same_number_of_tokens(prepared_rows: Prepare) -> None:
    prepared = prepared_rows("equal", (112,) * 4)
    assert prepared.train.lengths.tolist() == [130] * 4


@pytest.mark.pairs
def test_both_kinds_of_runs_report_the_same_steps(
    prepared_rows: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours and transformers' Trainer, on a small model: the same tokens in each step, and all that the table needs."""
    prepared = prepared_rows("skewed", (8, 11, 15, 20, 26, 33, 41, 50))
    monkeypatch.setattr(Peer, "python", lambda _: Path(sys.executable))

    ours = run_ours(prepared, tmp_path / "ours", 1, 1)
    theirs = run_peer(PEERS["Trainer"], prepared, tmp_path / "theirs", 1, 1)

    assert [tokens for _, tokens in ours.steps] == [tokens for _, tokens in theirs.steps]
    for run in (ours, theirs):
        assert len(run.steps) == 4
        assert sum(tokens for _, tokens in run.steps) == prepared.train.lengths.sum()
        assert all(value > 0 for value in run.figures(prepared.workload).values())
        assert (run.model / "adapter_model.safetensors").exists()


def test_a_peer_that_fails_says_why(prepared_rows: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = prepared_rows("equal", (8,) * 4)
    monkeypatch.setattr(Peer, "python", lambda _: Path(sys.executable))
    with pytest.raises(Failed, match=r"exit code 1: .*no_such_program"):
        run_peer(replace(PEERS["Trainer"], program="no_such_program"), prepared, tmp_path / "theirs", 1, 1)


@pytest.fixture
def prepared_rows(small_model: Path, tmp_path: Path) -> Prepare:
    """A function that prepares a workload with these rows, in steps of two."""

    def prepare(name: str, lengths: tuple[int, ...]) -> Prepared:
        workload = replace(WORKLOADS[name], lengths=lengths, batch_size=2, make_base=lambda: small_model)
        return prepare_rows(workload, tmp_path / "rows")

    return prepare


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model with SmolLM2's tokenizer."""
    base, folder = bases.smollm(), tmp_path_factory.mktemp("models")
    source, converted = folder / "small-source", folder / "small"
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.from_pretrained(base, **shape, num_key_value_heads=1, head_dim=32)
    AutoModelForCausalLM.from_config(config).save_pretrained(source)
    AutoTokenizer.from_pretrained(base).save_pretrained(source)
    convert(str(source), converted)
    return converted
