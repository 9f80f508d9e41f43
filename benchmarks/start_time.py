"""The time from `POST /v1/fine_tuning/jobs` to the first optimizer step, leg by leg: `python -m benchmarks.start_time`.

It starts `attune up` with SmolLM2, waits until the workers are idle, and creates small jobs one after the other, each
with a new file. Unless options say otherwise, a job has no settings but its number of steps. Times are those of the
workers' logs. The first job is apart: it also fetches the base model.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import sleep

from openai import OpenAI

from benchmarks.training.workloads import WORKLOADS, Words
from tests import smollm2
from tests.conftest import running_attune
from tests.end_to_end.jobs import client_of, ended, rows, upload

LEGS = {
    "claimed by prepare": ("attempt_started", "stage", "prepare"),
    "prepared": ("attempt_ended", "stage", "prepare"),
    "claimed by train": ("attempt_started", "stage", "train"),
    "trainer started": ("phase_began", "phase", "loading"),
    "base loaded": ("phase_began", "phase", "training"),
    "first step": ("first_step", "step", 1),
    "comparing": ("phase_began", "phase", "comparing"),
    "exporting": ("phase_began", "phase", "exporting"),
    "published": ("attempt_ended", "stage", "train"),
}
"""The log's event that ends each leg, with the name and the value of one of the event's fields."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--epochs", type=_auto_or_number, default="auto")
    parser.add_argument("--batch-size", type=_auto_or_number, default="auto", help="examples of a step")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--skewed", action="store_true", help="the rows of `benchmarks.training`'s workload skewed")
    options = parser.parse_args()
    with running_attune(smollm2.folder()) as server:
        client = client_of(server)
        sleep(20)  # the fork servers import their libraries
        posted = {}
        for number in range(options.jobs):
            content = _skewed_rows(number) if options.skewed else rows(options.rows, seed=number)
            file_id = upload(client, content)
            now = datetime.now(UTC)
            posted[job_id := _create(client, file_id, options)] = now
            assert ended(client, job_id, timeout_s=600).status == "succeeded"
        sleep(2)  # the attempt ends after its job
        times = [_legs(server.data / "logs", job_id, then) for job_id, then in posted.items()]
    print(f"{'seconds after POST':20} {'first job':>10} {f'median of {options.jobs - 1}':>13} {'its leg':>8}")
    before = 0.0
    for leg in LEGS:
        median = statistics.median(each[leg] for each in times[1:])
        print(f"{leg:20} {times[0][leg]:10.2f} {median:13.2f} {median - before:8.2f}")
        before = median
    others = [_share_of_other_work(each) for each in times]
    print(f"not training: {others[0]:.0%} of the first job, {statistics.median(others[1:]):.0%} of the others (median)")


def _share_of_other_work(times: dict[str, float]) -> float:
    """Return the share of a job's time, from POST to its end, in which it does not train."""
    return 1 - (times["comparing"] - times["base loaded"]) / times["published"]


def _skewed_rows(seed: int) -> bytes:
    words, workload = Words(smollm2.folder(), seed), WORKLOADS["skewed"]
    made = [workload.row(words, length, index) for index, length in enumerate(workload.lengths)]
    return "".join(f"{json.dumps(row)}\n" for row in made).encode()


def _auto_or_number(text: str) -> str | int:
    return text if text == "auto" else int(text)


def _create(client: OpenAI, file_id: str, options: argparse.Namespace) -> str:
    hyperparameters = {"n_epochs": options.epochs, "batch_size": options.batch_size}
    return client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file_id,
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},  # type: ignore[arg-type]
        extra_body={"training": {"max_steps": options.steps, "precision": options.precision}},
    ).id


def _legs(logs: Path, job_id: str, posted: datetime) -> dict[str, float]:
    entries = [entry for entry in _entries(logs) if entry.get("job_id") == job_id]
    return {
        leg: next(
            (datetime.fromisoformat(str(entry["timestamp"])) - posted).total_seconds()
            for entry in entries
            if (entry["event"], entry.get(field)) == (event, value)
        )
        for leg, (event, field, value) in LEGS.items()
    }


def _entries(logs: Path) -> Iterator[dict[str, object]]:
    """Yield the lines of the workers' logs that are JSON objects."""
    for log in logs.glob("worker-*.log"):
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                yield json.loads(line)


if __name__ == "__main__":
    main()
