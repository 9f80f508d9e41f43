"""All of Attune in a few minutes: starts it, fine-tunes a real language model through its API and checks the result.

    python examples/demo.py [--seed N] [--data-dir FOLDER] [--keep]

The exit code is 0 only if the answers to held-out questions score at least 30 points higher than before, and if the
downloaded adapter, loaded in plain peft, gives the same log-probs as the trainer's model.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path
from statistics import mean
from typing import Any

from base_model import fetch_gguf
from curve import draw
from follow import follow
from make_rows import Card, points, split_rows, write_rows
from openai import OpenAI
from rich.console import Console
from rich.table import Table
from rich.text import Text
from service import ATTUNE, running_service

HERE = Path(__file__).parent
MODEL = "smollm2-135m-instruct"
MIN_GAIN = 30
AGREEMENT = {"float32": ("largest", 1e-4), "bfloat16": ("mean", 2e-2)}
"""For each precision, which difference of log-probs is limited, and the limit in nats.

In bfloat16 only the mean is: other kernels, as on a GPU, round single unlikely tokens differently."""
SHOWN = 3
"""Number of answers to print."""

console = Console(highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="Fine-tune a small language model through the REST API.")
    parser.add_argument("--seed", type=int, default=0, help="seed of the rows, their order and the adapter")
    parser.add_argument("--data-dir", type=Path, default=Path(".cache/demo"), help="folder for all data of the service")
    parser.add_argument("--keep", action="store_true", help="leave the service running until ctrl-C")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stop the service too
    started = time.monotonic()
    data_dir = options.data_dir.resolve()
    run = data_dir / "runs" / f"seed-{options.seed}"

    print_heading("A base model: SmolLM2-135M-Instruct, from a wheel on PyPI")
    add_base_model(data_dir)
    print_heading("The service: attune up")
    with running_service(data_dir, log=data_dir / "up.log") as credentials:
        console.print(f"Ready at {credentials['base_url']}; its log is {data_dir / 'up.log'}")
        client = OpenAI(**credentials)
        print_heading("Rows: questions about the functions of Python's standard library")
        files = write_rows(run, options.seed)
        print_row(files["train"])
        print_heading("A job, through the openai client")
        cancel_unfinished(client)
        job, losses = fine_tune(client, files, options.seed)
        console.print(draw(losses))
        print_heading("The result, downloaded")
        adapter, base = download(client, job, run, data_dir)
        print_heading("The result, in plain transformers and peft")
        passed = evaluate(
            score(base, adapter, files["heldout"], run / "report.json"), split_rows(options.seed)["heldout"]
        )
        minutes, seconds = divmod(round(time.monotonic() - started), 60)
        console.print(f"\n{'Passed' if passed else 'FAILED'} after {minutes} min {seconds} s.")
        if options.keep:
            show_page(job.id, data_dir)
            wait_for_interrupt()
        else:
            show_page_later(job.id, data_dir)
    return 0 if passed else 1


def print_heading(title: str) -> None:
    console.print(f"\n[bold]{title}[/bold]")


def add_base_model(data_dir: Path) -> None:
    """Add the base model. Its weights are dequantized from 4 bits, so it is slightly worse than the original."""
    # The folder may be that of an older version's demo.
    subprocess.run([*ATTUNE, "migrate", "--data-dir", data_dir], check=True, stdout=subprocess.DEVNULL)
    listed = subprocess.run(
        [*ATTUNE, "models", "list", "--json", "--data-dir", data_dir], check=True, stdout=subprocess.PIPE
    )
    if any(base["name"] == MODEL for base in json.loads(listed.stdout)):
        console.print(f"{MODEL} was added before.")
        return
    gguf = fetch_gguf(data_dir.parent / "models")
    subprocess.run([*ATTUNE, "models", "add", MODEL, gguf, "--data-dir", data_dir], check=True)


def print_row(path: Path) -> None:
    for message in json.loads(path.open().readline())["messages"]:
        for line in message["content"].splitlines():
            console.print(f"  {message['role']:>9}  {line}", markup=False, soft_wrap=True)


def cancel_unfinished(client: OpenAI) -> None:
    """Cancel the jobs of an interrupted demo: the new one would wait for them."""
    for job in client.fine_tuning.jobs.list():
        if job.status in {"validating_files", "queued", "running", "paused"}:
            client.fine_tuning.jobs.cancel(job.id)
            console.print(f"  Cancelled {job.id}, which an interrupted demo left behind", highlight=False)


def fine_tune(client: OpenAI, files: dict[str, Path], seed: int) -> tuple[Any, list[float]]:
    """Upload the files, create a job and follow it. Return the succeeded job and its loss at each step."""
    train, validation = (
        client.files.create(file=files[part], purpose="fine-tune").id for part in ("train", "validation")
    )
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=train,
        validation_file=validation,
        suffix="cards",
        seed=seed,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 8}}},
        extra_body={"technique": {"type": "lora", "rank": 16}, "training": {"learning_rate": 1e-3, "eval_every": 5}},
    )
    job, losses = follow(client, job.id, console)
    if job.status != "succeeded":
        raise SystemExit(f"The job {job.status}: {job.error.message if job.error else 'no reason given'}")
    return job, losses


def download(client: OpenAI, job: Any, run: Path, data_dir: Path) -> tuple[Path, Path]:
    """Download the adapter with the openai client, as a tar, and the base model with `attune`. Return their folders."""
    adapter, base = run / "adapter", data_dir / "base"
    archive = run / "adapter.tar"
    with client.files.with_streaming_response.content(job.result_files[1]) as response:
        response.stream_to_file(archive)
    with tarfile.open(archive) as tar:
        tar.extractall(adapter, filter="data")
    archive.unlink()
    command = ["adapters", "download", MODEL, "--output", str(base), "--data-dir", str(data_dir)]
    subprocess.run([*ATTUNE, *command], check=True)
    megabytes = sum(path.stat().st_size for path in adapter.iterdir()) / 1e6
    console.print(f"Downloaded {job.fine_tuned_model}: {megabytes:.0f} MB with its tokenizer")
    return adapter, base


def score(base: Path, adapter: Path, questions: Path, report: Path) -> dict[str, Any]:
    """Score both models in a process that imports nothing of Attune."""
    console.print("Both models answer the held-out questions …")
    with (report.parent / "score.log").open("w") as log:
        command: list[str | Path] = [sys.executable, HERE / "score.py", base, adapter, questions, report]
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode != 0:
            raise SystemExit(f"The adapter could not be scored: see {log.name}")
    result: dict[str, Any] = json.loads(report.read_text())
    return result


def evaluate(report: dict[str, Any], heldout: list[tuple[str, Card]]) -> bool:
    """Print both models' answers and points. Return whether the gain and the log-probs meet the demo's limits."""
    answers = list(zip(heldout, report["base"], report["tuned"], strict=True))
    table = Table("question", "base model", "fine-tuned", show_lines=True)
    for (question, _), base, tuned in answers[:SHOWN]:
        table.add_row(Text(question.partition("\n")[0]), Text(textwrap.shorten(base, 120)), Text(tuned))
    base_mean = mean(points(base, card) for (_, card), base, _ in answers)
    tuned_mean = mean(points(tuned, card) for (_, card), _, tuned in answers)
    gain = tuned_mean - base_mean
    difference, precision = report["logprob_difference"], report["precision"]
    kind, limit = AGREEMENT[precision]
    console.print(table)
    console.print(f"Points of 100 (mean over {len(answers)} held-out questions)")
    console.print(f"  base model {base_mean:5.1f}")
    console.print(f"  fine-tuned {tuned_mean:5.1f}   gain {gain:+.1f}, at least {MIN_GAIN} expected")
    console.print("Log-probs here and in the trainer")
    console.print(f"  differ by {difference['largest']:.1e} at most, {difference['mean']:.1e} on average")
    console.print(f"  in {precision} the {kind} difference may be {limit:.0e}")
    return gain >= MIN_GAIN and difference[kind] <= limit


def show_page(job_id: str, data_dir: Path) -> None:
    """Print a link that signs a browser in, once, and shows the job; and the command that prints another link."""
    command = ["open", f"/jobs/{job_id}", "--data-dir", str(data_dir)]
    opened = subprocess.run([*ATTUNE, *command], check=True, stdout=subprocess.PIPE, text=True)
    console.print(f"\nSee the job in a browser: {opened.stdout.strip()}", soft_wrap=True)
    console.print(f"The link works once, within 10 min. For another: {attune()} {' '.join(command)}", soft_wrap=True)
    console.print("Ctrl-C stops the service.")


def show_page_later(job_id: str, data_dir: Path) -> None:
    """Print the address of the job's page, and the commands that serve it again and sign a browser in."""
    console.print(f"See the job at http://127.0.0.1:8000/jobs/{job_id} once the service runs again:", soft_wrap=True)
    console.print(f"  {attune()} up --data-dir {data_dir}", soft_wrap=True)
    console.print(f"  {attune()} open /jobs/{job_id} --data-dir {data_dir}   # signs the browser in", soft_wrap=True)


def attune() -> Path | str:
    """Return the `attune` command as a person can type it here."""
    return "attune" if shutil.which("attune") else Path(sys.executable).with_name("attune")


def wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(60)
    except KeyboardInterrupt:
        console.print("Stopping …")


if __name__ == "__main__":
    sys.exit(main())
