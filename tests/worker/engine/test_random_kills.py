"""Trainers killed at random moments, while states are written in the background: `make soak`, ATTUNE_KILLS."""

import json
import os
import random
import shutil
import signal
import time
from itertools import islice
from pathlib import Path

import pytest

from tests.tiny_models import make_encoder, make_model
from tests.worker import pairs
from tests.worker.recorder import attempt_after
from tests.worker.run_folders import Finished, finish, run_trainer, start

STEPS = 24
OPTIONS = {
    "ppo": {"grader": pairs.GRADER, "reward_model": None},
    "reinforcement": {"grader": pairs.GRADER},
}
FAMILY = {"causal_lm": "llama", "encoder": "bert"}
WIDE = {"qlora": "_wide"}
"""Bases whose rows are as wide as a block of four-bit weights."""


@pytest.mark.soak
def test_trainers_killed_at_random_moments_publish_the_same_bytes(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    bases = {family: make_model(tmp_path / family, family) for family in ("llama", "llama_wide")}
    bases |= {family: make_encoder(tmp_path / family, family) for family in ("bert", "bert_wide")}
    left = int(os.environ.get("ATTUNE_KILLS", "50"))
    while left > 0:
        pair, folder = rng.choice(pairs.LEGAL), tmp_path / f"{left}"
        for name in ("whole", "0"):
            options = OPTIONS.get(pair.method, {})
            base = bases[FAMILY[pair.kind] + WIDE.get(pair.technique, "")]
            pairs.make(
                folder / name, base, pair.technique, pair.method, seed=1, steps=STEPS, save_every=2, options=options
            )
        calm = run_trainer(folder / "whole")
        assert calm.code == 0, calm.log
        run, resumed_after = _kill_and_resume(folder / "0", rng, min(left, rng.randint(1, 4)))
        print(f"{pair.technique}, {pair.method}: resumed after steps {resumed_after}", flush=True)
        assert _weights(run) == _weights(folder / "whole") != {}, (pair, resumed_after)
        left -= len(resumed_after)
        shutil.rmtree(folder)


def _weights(run: Path) -> dict[str, bytes]:
    model = run / "out" / "model"
    return {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*.safetensors")}


def _kill_and_resume(run: Path, rng: random.Random, kills: int) -> tuple[Path, list[int]]:
    """Kill up to that many attempts, and let the last one end. Return its folder, and the steps of the states that were
    resumed: 0 for the beginning."""
    resumed_after: list[int] = []
    while len(resumed_after) < kills:
        killed = _kill_somewhere(run, rng)
        if killed.code == 0:  # it ended first
            return run, resumed_after
        assert killed.code == -signal.SIGKILL, killed.log
        reported = [run / report["path"] for report in killed.of("state")]
        earlier = [run / "resume"] if (run / "resume").exists() else []
        run = _next_attempt(run, run.with_name(str(len(resumed_after) + 1)), (earlier + reported)[-1:])
        resumed_after.append(_step_of(run / "resume"))
    last = run_trainer(run)
    assert last.code == 0, last.log
    return run, resumed_after


def _kill_somewhere(run: Path, rng: random.Random) -> Finished:
    """Kill the trainer some milliseconds after one of its reports, or after the last."""
    child, reports = start(run)
    before = [json.loads(line) for line in islice(reports, rng.randrange(4 * STEPS))]
    time.sleep(rng.uniform(0, 0.05))
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    ended = finish(run, child, reports)
    return Finished(ended.code, [*before, *ended.reports], ended.log)


def _next_attempt(run: Path, folder: Path, states: list[Path]) -> Path:
    if states:
        return attempt_after(run, folder, str(states[-1].relative_to(run)))
    attempt_after(run, folder, "data")
    shutil.rmtree(folder / "resume")
    return folder


def _step_of(state: Path) -> int:
    return int(json.loads((state / "state.json").read_text())["progress"]["step"]) if state.exists() else 0
