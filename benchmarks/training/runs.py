"""Runs of one workload: ours as a trainer in a run folder and through a live service, and a peer's program."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch

from api.infra.child_environment import installed_allocator
from benchmarks.training.environments import Peer
from benchmarks.training.prepared import Prepared
from benchmarks.training.workloads import ALPHA, MODEL, RANK, REWARDED, WARM_UP_STEPS, Workload
from tests.services.attune import AttuneUp

ROOT = Path(__file__).parents[2]
POLL_S = 0.2
SETTLE_S = 15.0
"""Seconds for which a service that has just started is left alone. Its fork server imports torch meanwhile, as that of
a service in use has done."""


class Failed(Exception):
    """A run ended with an error."""


@dataclass(frozen=True)
class Run:
    """The measurements of one run. Times are of time.monotonic, which is one clock for all processes."""

    started: float
    ended: float
    steps: list[tuple[float, int]]
    """The end of each step, and its tokens without padding; for methods with rollouts, the sampled tokens."""
    checkpoint_s: float
    checkpoint_bytes: int
    peak_bytes: int
    """Peak memory of the training until its last step: resident memory of its process, or torch's on a GPU."""
    model: Path
    """The saved adapter."""

    def figures(self, workload: Workload) -> dict[str, float]:
        """Return the measured metrics by name. The warm-up and the steps after the checkpoint do not count."""
        counted = self.steps[WARM_UP_STEPS : workload.save_step]
        seconds = counted[-1][0] - self.steps[WARM_UP_STEPS - 1][0]
        return {
            "tokens_per_s": sum(tokens for _, tokens in counted) / seconds,
            "peak_mib": self.peak_bytes / 2**20,
            "checkpoint_mib": self.checkpoint_bytes / 2**20,
            "checkpoint_s": self.checkpoint_s,
            "first_step_s": self.steps[0][0] - self.started,
            "whole_s": self.ended - self.started,
        }


def environment(threads: int) -> dict[str, str]:
    """Return the variables of every contestant: the same threads, and no network."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **offline, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}


def run_ours(prepared: Prepared, folder: Path, seed: int, threads: int) -> Run:
    """Run `python -m worker.train` on a run folder, with the allocator that a worker would choose. Raise Failed if the
    program fails."""
    run = prepared.run_folder(folder, seed)
    read_fd, write_fd = os.pipe()
    started = time.monotonic()
    with (folder / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "worker.train", str(run)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[write_fd],
            cwd=ROOT,
            env={**environment(threads), **_allocator(), "ATTUNE_REPORT_FD": str(write_fd)},
        )
    os.close(write_fd)
    reports: list[tuple[float, dict[str, Any]]] = []
    peak = 0
    with os.fdopen(read_fd) as lines:
        for line in lines:
            report = json.loads(line)
            reports.append((time.monotonic(), report))
            if report["type"] == "metrics":
                peak = _peak_bytes(child.pid)
    if child.wait() != 0:
        raise Failed(f"{folder / 'log.txt'}: {reports[-1][1] if reports else ''}")
    return _our_run(prepared.workload, run, started, reports, peak)


def _allocator() -> dict[str, str]:
    """Return the variable by which a worker gives tcmalloc to a trainer on a CPU, if the system has it."""
    library = installed_allocator()
    return {"LD_PRELOAD": str(library)} if library is not None and not torch.cuda.is_available() else {}


def _our_run(
    workload: Workload, run: Path, started: float, reports: list[tuple[float, dict[str, Any]]], peak: int
) -> Run:
    steps = [(at, _our_tokens(workload, report)) for at, report in reports if report["type"] == "metrics"]
    saved_at, saved = next((at, report) for at, report in reports if report["type"] == "state")
    done = reports[-1][1]
    state = run / saved["path"]
    return Run(
        started=started,
        ended=time.monotonic(),
        steps=steps,
        checkpoint_s=saved_at - steps[workload.save_step - 1][0],
        checkpoint_bytes=sum(path.stat().st_size for path in state.rglob("*") if path.is_file()),
        peak_bytes=done["peaks"]["training"] if done["device"] == "cuda" else peak,
        model=run / "out" / "model",
    )


def _our_tokens(workload: Workload, report: Mapping[str, Any]) -> int:
    if not workload.answer_tokens:
        return int(report["tokens"])
    return round(report["train_answer_tokens"] * workload.batch_size * workload.group_size)


def _peak_bytes(pid: int) -> int:
    """Return the peak resident memory of the process. Unlike rusage's, it does not include the parent's."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def run_peer(peer: Peer, prepared: Prepared, folder: Path, seed: int, threads: int) -> Run:
    """Run the peer's program in its environment. Raise Failed if the program fails, NotInstalled if pip cannot install
    the environment."""
    python, workload = peer.python(), prepared.workload
    folder.mkdir(parents=True)
    reports = folder / "reports.jsonl"
    request = {
        "base": str(prepared.base),
        "rows": str(prepared.folder / "peer-train.jsonl"),
        "reports": str(reports),
        "output": str(folder / "output"),
        "model": str(folder / "model"),
        "kind": workload.kind,
        "batch_size": workload.batch_size,
        "accumulation": workload.accumulation,
        "save_step": workload.save_step,
        "learning_rate": workload.learning_rate,
        "seed": seed,
        "order": prepared.order(seed),
        "rank": RANK,
        "alpha": ALPHA,
        "max_length": prepared.max_length,
        "quantized": workload.quantized,
        "answer_tokens": workload.answer_tokens,
        "group_size": workload.group_size,
        "rewarded": REWARDED,
        "labels": len(prepared.labels.names) if prepared.labels else None,
        "best": peer.best,
    }
    (folder / "request.json").write_text(json.dumps(request, indent=2))
    command = [str(python), "-m", f"benchmarks.training.peers.{peer.program}", str(folder / "request.json")]
    started = time.monotonic()
    with (folder / "log.txt").open("wb") as log:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env=environment(threads), check=False
        ).returncode
    ended = time.monotonic()
    if code != 0:
        last = (folder / "log.txt").read_text(errors="replace").strip().rpartition("\n")[2]
        raise Failed(f"exit code {code}: {last[:200]}")
    return _peers_run(workload, [json.loads(line) for line in reports.read_text().splitlines()], started, ended, folder)


def _peers_run(workload: Workload, reports: list[dict[str, Any]], started: float, ended: float, folder: Path) -> Run:
    steps = {report["step"]: report for report in reports if report["type"] == "step"}
    logs = {report["step"]: report["logs"] for report in reversed(reports) if report["type"] == "log"}
    types = {report["type"] for report in reports}
    if len(steps) != workload.steps or not types >= {"checkpoint", "trained"}:
        raise Failed(f"{len(steps)} steps instead of {workload.steps}, and reports of {', '.join(sorted(types))}")
    saved = next(report for report in reports if report["type"] == "checkpoint")
    trained = next(report for report in reports if report["type"] == "trained")
    answers = workload.batch_size * workload.group_size
    tokens = {
        step: round(logs[step]["completions/mean_length"] * answers) if workload.answer_tokens else report["tokens"]
        for step, report in steps.items()
    }
    return Run(
        started=started,
        ended=ended,
        steps=[(steps[step]["time"], tokens[step]) for step in sorted(steps)],
        checkpoint_s=saved["seconds"],
        checkpoint_bytes=saved["bytes"],
        peak_bytes=trained["peak_bytes"],
        model=folder / "model",
    )


@dataclass(frozen=True)
class ServiceRun:
    first_step_s: float
    """Seconds from POST to the first step's event."""
    whole_s: float
    """Seconds from POST to `succeeded`."""


def run_service(prepared: Prepared, folder: Path, seed: int, threads: int) -> ServiceRun:
    """Run the job through a live `attune up`, whose start is not measured. Raise Failed if the job fails."""
    folder.mkdir(parents=True)
    service = AttuneUp(folder, env=environment(threads))
    workload = prepared.workload
    service.add_model(MODEL, prepared.base)
    service.start()
    try:
        headers = {"Authorization": f"Bearer {service.api_key}"}
        with httpx.Client(base_url=service.base_url, headers=headers, timeout=60) as client:
            with (prepared.folder / "train.jsonl").open("rb") as file:
                uploaded = client.post("/files", data={"purpose": "fine-tune"}, files={"file": file})
            time.sleep(SETTLE_S)
            started = time.monotonic()
            body = {**workload.recipe(seed), "training_file": uploaded.raise_for_status().json()["id"]}
            job = client.post("/fine_tuning/jobs", json=body).raise_for_status().json()["id"]
            return _follow(client, job, started)
    finally:
        service.stop()


def _follow(client: httpx.Client, job: str, started: float) -> ServiceRun:
    first_step_s: float | None = None
    while True:
        if first_step_s is None:
            events = client.get(f"/fine_tuning/jobs/{job}/events", params={"limit": 100}).raise_for_status().json()
            if any(event["type"] == "metrics" for event in events["data"]):
                first_step_s = time.monotonic() - started
        state = client.get(f"/fine_tuning/jobs/{job}").raise_for_status().json()
        if state["status"] in {"failed", "cancelled"}:
            raise Failed(f"the job {state['status']}: {state['error']}")
        if state["status"] == "succeeded":
            assert first_step_s is not None, "a job that made no step"
            return ServiceRun(first_step_s, time.monotonic() - started)
        time.sleep(POLL_S)
