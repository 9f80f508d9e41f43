"""Predicted against actual: `OMP_NUM_THREADS=1 python -m benchmarks.estimates [--rounds 5] [--smollm2 FOLDER]`.

Jobs of different shapes run through both stages of a worker in this process, one after the other, once in each round.
Memory: the prediction at the start of the job against the median peak. Time: a prediction from the worker's measured
speed with other jobs against the median of the trainer's processor time, which other load on the machine changes least.

The factors of the memory estimate and the cost of DoRA were fitted to the jobs in FITTED. No constant was fitted to a
job in HELD_OUT (other base models, lengths and families), and times are predicted from jobs in FITTED only.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from api.context import Context
from api.estimate.speed import speed_of, with_job
from api.estimate.stored import Observation, Observations, StoredEstimate
from api.estimate.work import ComputeCost
from api.records import base_models as bases
from api.records import workers
from api.records.jobs import Job
from api.records.migrate import migrate
from api.services import base_models, jobs
from api.settings import Settings
from api.spec.catalog import METHODS
from api.spec.lifecycle import Stage
from api.spec.recipe import Recipe
from tests import smollm2
from tests.factories import a_caller, a_file, the_job
from tests.tiny_models import make_encoder, make_encoder_tokenizer, make_model, make_tokenizer
from worker.supervisor.loop import work_until_idle
from worker.supervisor.node import Node

LLAMAS = {
    "middle": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "vocab_size": 16384},
    "wide": {"hidden_size": 448, "intermediate_size": 1216, "num_hidden_layers": 4, "vocab_size": 8192},
    "broad": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "vocab_size": 6144},
    "qwen": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 7, "vocab_size": 9216},
    "tall": {"hidden_size": 320, "intermediate_size": 960, "num_hidden_layers": 11, "vocab_size": 12288},
    "deep": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 20, "vocab_size": 4096},
}
GPTS = {
    "gpt": {"n_embd": 288, "n_layer": 7, "n_head": 6},
    "gpt-narrow": {"n_embd": 192, "n_layer": 9, "n_head": 4},
}
ENCODERS = {
    "reader": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4},
    "page": {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 4},
    "clerk": {"hidden_size": 320, "intermediate_size": 960, "num_hidden_layers": 4, "num_attention_heads": 5},
}


@dataclass(frozen=True)
class Case:
    base: str
    words: int
    """Words in each side of a row. A word is about five bytes, which are tokens in all bases but SmolLM2."""
    batch: int
    steps: int
    technique: str = "lora"
    method: str = "supervised"
    training: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        more = "".join(
            f", {name.replace('gradient_checkpointing', 'recomputed')} {value}" for name, value in self.training
        )
        return f"{self.base}, {self.technique}, {self.method}, {self.batch} rows of {2 * self.words} words{more}"


FITTED = [
    Case("tiny", 8, 4, 20),
    Case("tiny", 8, 32, 20, "full"),
    Case("tiny", 20, 8, 10, method="dpo"),
    Case("encoder", 12, 8, 20, method="classification"),
    Case("middle", 12, 4, 6),
    Case("middle", 12, 16, 4),
    Case("middle", 50, 8, 3),
    Case("middle", 50, 8, 3, "full"),
    Case("middle", 50, 8, 3, "dora"),
    Case("middle", 50, 8, 3, "prompt"),
    Case("middle", 50, 8, 3, training=(("gradient_checkpointing", True),)),
    Case("middle", 50, 8, 3, training=(("micro_batch_tokens", 512),)),
    Case("middle", 25, 4, 3, method="dpo"),
    Case("smollm2", 25, 4, 2),
    Case("smollm2", 100, 4, 1),
    Case("smollm2", 25, 4, 2, "full"),
    Case("wide", 30, 8, 3),
    Case("wide", 30, 8, 3, "full"),
    Case("wide", 60, 4, 3, method="orpo"),
    Case("deep", 40, 8, 3),
    Case("deep", 20, 16, 3, "ia3"),
    Case("deep", 40, 6, 3, method="kto"),
    Case("reader", 30, 16, 4, method="classification"),
    Case("reader", 60, 8, 4, "full", method="classification"),
    Case("middle", 35, 12, 3, "prefix"),
    Case("middle", 70, 6, 3, "bottleneck"),
    Case("middle", 30, 8, 3, method="simpo"),
    Case("middle", 40, 6, 3, "full", method="reward"),
    Case("middle", 80, 6, 3, training=(("gradient_checkpointing", True), ("micro_batch_tokens", 1024))),
    Case("smollm2", 60, 2, 2, method="dpo"),
    Case("smollm2", 40, 4, 2, "dora"),
    Case("smollm2", 50, 4, 2, training=(("gradient_checkpointing", True),)),
    # The times of the following jobs were predicted before constants were fitted to them.
    Case("tall", 25, 8, 3),
    Case("tall", 45, 6, 3, "full"),
    Case("tall", 35, 8, 3, "dora"),
    Case("tall", 40, 8, 3, "bottleneck"),
    Case("tall", 30, 6, 3, method="dpo"),
    Case("tall", 60, 6, 3, training=(("gradient_checkpointing", True),)),
    Case("gpt", 40, 8, 3),
    Case("gpt", 30, 12, 3, "full"),
    Case("gpt", 45, 8, 3, "ia3"),
    Case("gpt", 30, 6, 3, method="orpo"),
    Case("clerk", 40, 12, 4, method="classification"),
    Case("clerk", 50, 8, 4, "full", method="classification"),
    Case("smollm2", 35, 6, 2),
    Case("smollm2", 70, 3, 2, "prompt"),
]
HELD_OUT = [
    Case("broad", 35, 8, 3),
    Case("broad", 25, 10, 3, "full"),
    Case("broad", 25, 6, 3, method="dpo"),
    Case("broad", 45, 8, 3, "prefix"),
    Case("broad", 55, 8, 3, training=(("gradient_checkpointing", True),)),
    Case("gpt-narrow", 45, 8, 3),
    Case("gpt-narrow", 35, 10, 3, "full"),
    Case("page", 35, 14, 4, method="classification"),
    Case("page", 45, 10, 4, "full", method="classification"),
    Case("qwen", 35, 10, 3),
]


@dataclass(frozen=True)
class Measured:
    """The measurements of a case's jobs, one job per round."""

    case: Case
    parameters: int
    """Parameters of the base model."""
    memory_predicted: int
    """Predicted peak memory, in bytes."""
    peaks: list[int]
    """Measured peak memory, in bytes, one number per round."""
    spent: list[Observation]
    """Work and processor seconds, one entry per round."""

    @property
    def peak(self) -> float:
        return statistics.median(self.peaks)

    @property
    def median(self) -> Observation:
        """Return the work, which is the same in each round, with the median seconds."""
        training, rest = (statistics.median(job[name] for job in self.spent) for name in ("training_s", "rest_s"))
        return {**self.spent[0], "training_s": training, "rest_s": rest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smollm2", type=Path, help="a converted base model; default: that of the tests")
    parser.add_argument("--only", help="base models, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="how often all jobs run; memory and times are medians")
    options = parser.parse_args()
    chosen = [case for case in (*FITTED, *HELD_OUT) if options.only is None or case.base in options.only.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        context = Context.open(Settings(data_dir=folder / "data"))
        migrate(context.database)
        for base in sorted({case.base for case in chosen}):
            base_models.register(context, base, make_base(folder, base, options.smollm2))
        prepare, train = Node.open(context, Stage.PREPARE), Node.open(context, Stage.TRAIN)
        with context.database.write() as session:
            workers.register(session, owner=train.owner, stage=Stage.TRAIN, gpus=torch.cuda.device_count())
        print(f"{torch.__version__}, {torch.get_num_threads()} thread(s)", flush=True)
        rounds = [[run(context, prepare, train, case) for case in chosen] for _ in range(options.rounds)]
        with context.database.read() as session:
            parameters = {base.name: base.facts["parameters"] for base in bases.listed(session)}
        results = [
            summarize(case, parameters[case.base], finished)
            for case, finished in zip(chosen, zip(*rounds, strict=True), strict=True)
        ]
        print("\n".join(table([result for result in results if result is not None])))


def make_base(folder: Path, base: str, smollm2_folder: Path | None) -> Path:
    if base == "smollm2":
        return smollm2_folder or smollm2.folder()
    source, converted = folder / f"{base}-source", folder / base
    if base == "tiny":
        make_model(source, "llama")
    elif base == "encoder":
        make_encoder(source, "bert")
    elif base in ENCODERS:
        config = AutoConfig.for_model("bert", vocab_size=8192, max_position_embeddings=2048, **ENCODERS[base])
        AutoModel.from_config(config).save_pretrained(source)
        make_encoder_tokenizer(source)
    else:
        config = _gpt(**GPTS[base]) if base in GPTS else _llama(base)
        AutoModelForCausalLM.from_config(config).save_pretrained(source)
        make_tokenizer(source)
    subprocess.run([sys.executable, "-m", "worker.convert", str(source), str(converted)], check=True)
    return converted


def _gpt(**shape: int) -> Any:
    return AutoConfig.for_model(
        "gpt2", n_positions=2048, vocab_size=10240, **shape,
        bos_token_id=256, eos_token_id=258, pad_token_id=258,
    )  # fmt: skip


def _llama(base: str) -> Any:
    return AutoConfig.for_model(
        "qwen2" if base == "qwen" else "llama",
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, **LLAMAS[base],
        bos_token_id=256, eos_token_id=258, pad_token_id=258, tie_word_embeddings=True,
    )  # fmt: skip


def run(context: Context, prepare: Node, train: Node, case: Case) -> Job:
    caller = a_caller(context.database)
    hyperparameters = {"n_epochs": 50, "batch_size": case.batch}
    body = {
        "model": case.base,
        "training_file": a_file(context, caller.project_id, rows(case)),
        "technique": {"type": case.technique},
        "method": {"type": case.method, case.method: {"hyperparameters": hyperparameters}},
        "training": {"max_steps": case.steps, "precision": "float32", **dict(case.training)},
    }
    job_id = jobs.submit(context, caller, Recipe.model_validate(body)).id
    work_until_idle(prepare)
    work_until_idle(train)
    job = the_job(context.database, job_id)
    actual = job.estimate.get("actual") if job.estimate else None
    peaks = actual.get("peaks", {}) if actual else {}
    memory = ", ".join(f"{phase} {count / 2**20:.0f} MiB" for phase, count in peaks.items())
    print(f"{job.status:<10} {case} {memory} {job.error or ''}", flush=True)
    return job


def rows(case: Case) -> bytes:
    rng = random.Random(0)

    def text() -> str:
        return " ".join("".join(rng.choices("abcdefgh", k=4)) for _ in range(case.words))

    def row() -> dict[str, Any]:
        formats = METHODS[case.method].formats
        if "unpaired" in formats:
            return {"prompt": text(), "completion": text(), "label": rng.random() < 0.5}
        if "preference" in formats:
            return {"prompt": text(), "chosen": text(), "rejected": text()}
        if "labelled" in formats:
            return {"text": text(), "label": rng.choice("ab")}
        return {"messages": [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]}

    return "".join(json.dumps(row()) + "\n" for _ in range(max(12, 2 * case.batch))).encode()


def summarize(case: Case, parameters: int, finished: Sequence[Job]) -> Measured | None:
    """Return a case's measurements; None if a job failed in a round, which `run` has printed."""
    estimates = [job.estimate for job in finished if job.estimate]
    actual = [spent for estimate in estimates if (spent := estimate.get("actual"))]
    if len(actual) < len(finished):
        return None
    return Measured(
        case,
        parameters,
        estimates[0]["predicted"]["memory"]["total"],
        [spent["peak_bytes"] for spent in actual],
        [
            _observation(estimate, spent["processor_s"], parameters)
            for estimate, spent in zip(estimates, actual, strict=True)
        ],
    )


def table(results: Sequence[Measured]) -> Iterator[str]:
    """Yield lines of Markdown: one per job, then how many fitted and held-out jobs are within the targets."""
    rounds = {len(result.peaks) for result in results}
    yield f"\nMedians of {min(rounds, default=0)} rounds; minimum and maximum in brackets."
    yield "\n| job | fitted | memory predicted | actual | off by | time predicted | actual | off by |"
    yield "|---|---|---|---|---|---|---|---|"
    counted: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for result in results:
        fitted = result.case in FITTED
        others = [other.median for other in results if other is not result and other.case in FITTED]
        seconds = [observation["training_s"] + observation["rest_s"] for observation in result.spent]
        median_s = statistics.median(seconds)
        predicted_s = _predict_seconds(result, others)
        off = result.memory_predicted / result.peak - 1, predicted_s / median_s - 1
        counted[fitted].append(off)
        yield (
            f"| {result.case} | {'yes' if fitted else 'no'} | {result.memory_predicted / 2**20:.0f} MiB "
            f"| {result.peak / 2**20:.0f} MiB | {off[0]:+.0%} | {predicted_s:.1f} s "
            f"| {median_s:.1f} s ({min(seconds):.1f}, {max(seconds):.1f}) | {off[1]:+.0%} |"
        )
    yield ""
    for fitted, errors in counted.items():
        memory, time = (sum(abs(off[which]) <= limit for off in errors) for which, limit in ((0, 0.15), (1, 0.25)))
        name = "fitted" if fitted else "held out"
        yield f"{name}: memory {memory} of {len(errors)} within 15 %, time {time} of {len(errors)} within 25 %"


def _predict_seconds(target: Measured, others: Sequence[Observation]) -> float:
    """Return seconds predicted from the worker's measured speed with the other jobs."""
    history: Observations | None = None
    for other in others:
        history = with_job(history, other)
    speed, work = speed_of(history, gpu=torch.cuda.is_available(), precision="float32"), target.spent[0]
    return speed.training_s(ComputeCost(work["flops"], work["passes"])) + speed.rest_s(target.parameters)


def _observation(estimate: StoredEstimate, spent: dict[str, float], parameters: int) -> Observation:
    predicted = estimate["predicted"]
    return Observation(
        precision="float32",
        flops=predicted["flops"],
        passes=predicted["passes"],
        training_s=spent["training"],
        rest_s=sum(spent.values()) - spent["training"],
        parameters=parameters,
    )


if __name__ == "__main__":
    main()
