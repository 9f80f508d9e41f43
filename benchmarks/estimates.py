"""Predicted against actual: `OMP_NUM_THREADS=1 python -m benchmarks.estimates [--smollm2 FOLDER]`.

Jobs of different shapes run through both stages of a worker in this process, one after the other. Memory is what was
predicted when the job began. Time is the trainer's processor time, which other work on the machine changes least: each
job's is predicted from what the worker was seen to do with all the others.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from api.context import Context
from api.estimate.speed import Observation, speed_of, with_job
from api.estimate.work import Work
from api.lifecycle import Stage
from api.migrate import migrate
from api.recipe import Recipe
from api.records import base_models as bases
from api.records import workers
from api.records.jobs import Job
from api.services import base_models, jobs
from api.settings import Settings
from tests import smollm2
from tests.factories import a_caller, a_file, the_job
from tests.tiny_models import make_encoder, make_model, make_tokenizer
from worker.supervisor.node import Node
from worker.supervisor.supervise import drain
from worker.supervisor.warm import WarmTrainers

MIDDLE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 4}


@dataclass(frozen=True)
class Case:
    base: str
    words: int
    """Of each side of a row; a word is about five bytes, which are tokens in all bases but SmolLM2."""
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


CASES = [
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
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smollm2", type=Path, help="a converted base; default: as the tests have it")
    parser.add_argument("--only", help="bases, with commas between them")
    options = parser.parse_args()
    chosen = [case for case in CASES if options.only is None or case.base in options.only.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        context = Context.open(Settings(data_dir=folder / "data", warm_trainers=False))
        migrate(context.database)
        for base in sorted({case.base for case in chosen}):
            base_models.register(context, base, made(folder, base, options.smollm2))
        prepare, train = Node.open(context, Stage.PREPARE), Node.open(context, Stage.TRAIN)
        with context.database.write() as session:
            workers.seen(session, owner=train.owner, gpus=0, train_slots=1)
        print(f"{torch.__version__}, {torch.get_num_threads()} thread(s)", flush=True)
        ended = [(case, run(context, prepare, train, case)) for case in chosen]
        report(context, ended)


def made(folder: Path, base: str, smollm2_folder: Path | None) -> Path:
    if base == "smollm2":
        return smollm2_folder or smollm2.folder()
    source, converted = folder / f"{base}-source", folder / base
    if base == "tiny":
        make_model(source, "llama")
    elif base == "encoder":
        make_encoder(source, "bert")
    else:
        config = AutoConfig.for_model(
            "llama", vocab_size=16384, num_key_value_heads=2, max_position_embeddings=2048, **MIDDLE,
            bos_token_id=256, eos_token_id=258, pad_token_id=258, tie_word_embeddings=True,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(source)
        make_tokenizer(source)
    subprocess.run([sys.executable, "-m", "worker.convert", str(source), str(converted)], check=True)
    return converted


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
    warm = WarmTrainers(train)
    drain(prepare, warm)
    drain(train, warm)
    job = the_job(context.database, job_id)
    peaks = ((job.estimate or {}).get("actual") or {}).get("peaks", {})
    told = ", ".join(f"{phase} {count / 2**20:.0f} MiB" for phase, count in peaks.items())
    print(f"{job.status:<10} {case} {told} {job.error or ''}", flush=True)
    return job


def rows(case: Case) -> bytes:
    rng = random.Random(0)

    def text() -> str:
        return " ".join("".join(rng.choices("abcdefgh", k=4)) for _ in range(case.words))

    def row() -> dict[str, Any]:
        if case.method == "dpo":
            return {"prompt": text(), "chosen": text(), "rejected": text()}
        if case.method == "classification":
            return {"text": text(), "label": rng.choice("ab")}
        return {"messages": [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]}

    return "".join(json.dumps(row()) + "\n" for _ in range(max(12, 2 * case.batch))).encode()


def report(context: Context, ended: list[tuple[Case, Job]]) -> None:
    with context.database.read() as session:
        parameters = {base.name: base.facts["parameters"] for base in bases.listed(session)}
    known = [(case, job.estimate) for case, job in ended if job.estimate and job.estimate.get("actual")]
    observations = [_observation(estimate, parameters[case.base]) for case, estimate in known]
    print("\n| job | memory predicted | actual | off by | time predicted | actual | off by |")
    print("|---|---|---|---|---|---|---|")
    errors = []
    for index, (case, estimate) in enumerate(known):
        others: dict[str, Any] = {}
        for place, each in enumerate(observations):
            others = others if place == index else with_job(others, each)
        memory = estimate["predicted"]["memory"]["total"], estimate["actual"]["peak_bytes"]
        mine = observations[index]
        speed = speed_of(others, gpu=False, precision="float32")
        seconds = (
            speed.training_s(Work(mine["flops"], mine["passes"])) + speed.rest_s(mine["parameters"]),
            mine["training_s"] + mine["rest_s"],
        )
        off = [predicted / actual - 1 for predicted, actual in (memory, seconds)]
        errors.append(off)
        print(
            f"| {case} | {memory[0] / 2**20:.0f} MiB | {memory[1] / 2**20:.0f} MiB | {off[0]:+.0%} "
            f"| {seconds[0]:.1f} s | {seconds[1]:.1f} s | {off[1]:+.0%} |"
        )
    within = [sum(abs(off[which]) <= limit for off in errors) for which, limit in ((0, 0.15), (1, 0.25))]
    print(f"\nwithin target: memory {within[0]} of {len(errors)} (15 %), time {within[1]} of {len(errors)} (25 %)")


def _observation(estimate: dict[str, Any], parameters: int) -> Observation:
    predicted, spent = estimate["predicted"], estimate["actual"]["processor_s"]
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
