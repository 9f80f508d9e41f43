"""Trainings by Attune and by its peers, in turn: `python -m benchmarks.training [--rounds 5] [--only skewed …]`.

In each round every contestant trains each workload once, one after the other, on the same base model, rows, batches,
precision and threads. The round's number is the seed. Attune runs twice: its trainer alone (steps, memory, checkpoint),
and through a live service (POST to the first step, whole job). A peer's times count from the start of its program.
"""

import argparse
import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api.spec.recipe import MIN_EXAMPLES
from benchmarks.training import table
from benchmarks.training.environments import PEERS, NotInstalled, Peer
from benchmarks.training.matmul import flops_per_token, matmul_rate
from benchmarks.training.prepared import Prepared, prepare_rows
from benchmarks.training.runs import Failed, Run, environment, run_ours, run_peer, run_service
from benchmarks.training.score import held_out_loss
from benchmarks.training.workloads import WARM_UP_STEPS, WORKLOADS

FOLDER = Path("build/bench")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=[*WORKLOADS], help="workloads")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[*PEERS])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="OpenMP threads of each contestant")
    parser.add_argument("--steps", type=int, help="fewer steps of each workload, to try the harness: at least 4")
    parser.add_argument("--no-service", action="store_true", help="leave out the runs through a live service")
    options = parser.parse_args()
    results = []
    for name in options.only:
        workload = WORKLOADS[name]
        if options.steps:
            rows = max(options.steps * workload.batch_size, (WARM_UP_STEPS + 2) * workload.batch_size, MIN_EXAMPLES)
            workload = dataclasses.replace(workload, lengths=workload.lengths[:rows])
        prepared = prepare_rows(workload, FOLDER / name / "rows")
        measured = table.Measured(workload.name, workload.title)
        results.append(measured)
        peers = [PEERS[peer] for peer in options.peers]
        measured.absent |= {peer.name: why for peer in peers if (why := peer.why_not(workload))}
        for number in range(options.rounds):
            Round(prepared, number, options.threads, not options.no_service).run(measured, peers)
            table.write_json(FOLDER / "training.json", results)  # also if a later round is interrupted
        print(table.markdown(measured), flush=True)


@dataclasses.dataclass(frozen=True)
class Round:
    prepared: Prepared
    number: int
    threads: int
    with_service: bool

    def run(self, measured: table.Measured, peers: list[Peer]) -> None:
        """Run Attune and each peer once. A peer that fails takes no part in later rounds."""
        rate = matmul_rate(self.prepared.base, self.threads)
        with self._folder("attune") as folder:
            run = run_ours(self.prepared, folder, self.number, self.threads)
            figures = self._figures(run, rate)
        if self.with_service:
            with self._folder("service") as folder:
                served = run_service(self.prepared, folder, self.number, self.threads)
                figures |= {"first_step_s": served.first_step_s, "whole_s": served.whole_s}
        measured.ours.append(figures)
        self._print("Attune", _short(figures))
        for peer in peers:
            if peer.name not in measured.absent:
                self._run_peer(measured, peer, rate)

    def _run_peer(self, measured: table.Measured, peer: Peer, rate: float) -> None:
        try:
            with self._folder(peer.name) as folder:
                run = run_peer(peer, self.prepared, folder, self.number, self.threads)
                figures = self._figures(run, rate)
        except (Failed, NotInstalled) as error:
            measured.absent[peer.name] = str(error)
            measured.peers.pop(peer.name, None)
            self._print(peer.name, str(error))
        else:
            measured.peers.setdefault(peer.name, []).append(figures)
            self._print(peer.name, _short(figures))

    def _figures(self, run: Run, rate: float) -> dict[str, float]:
        workload = self.prepared.workload
        figures = run.figures(workload)
        if flops := flops_per_token(self.prepared):
            figures["matmul_share"] = 100 * figures["tokens_per_s"] * flops / rate
        if not workload.answer_tokens:
            figures["heldout_loss"] = held_out_loss(self.prepared, run.model, environment(self.threads))
        return figures

    @contextmanager
    def _folder(self, contestant: str) -> Iterator[Path]:
        """Yield the path of a folder that does not exist. What a run leaves there is removed, unless it failed."""
        folder = (self.prepared.folder.parent / f"{contestant}-{self.number}".replace(" ", "-").lower()).resolve()
        shutil.rmtree(folder, ignore_errors=True)
        yield folder
        shutil.rmtree(folder)

    def _print(self, contestant: str, text: str) -> None:
        print(f"{self.prepared.workload.name}, round {self.number}, {contestant}: {text}", flush=True)


def _short(figures: table.Figures) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


if __name__ == "__main__":
    main()
