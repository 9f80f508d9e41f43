"""Write what an older release leaves behind: its data folder, its answers and a published adapter.

    git worktree add ../older COMMIT
    cp -r tests/upgrade ../older/tests/
    cd ../older && PYTHONPATH=. python -m tests.upgrade.make FOLDER

`test_upgrade.py` opens FOLDER with today's code.
"""

import json
import shutil
import sys
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from openai import OpenAI

from tests.end_to_end.jobs import adapter_files, client_of, create, ended, rows, step_of, upload, wait_until
from tests.services import AttuneUp
from tests.tiny_models import make_model

PAUSED_STEPS = 60
PREFERENCES = [
    {"prompt": f"abcd {number}?", "chosen": f"efgh {number}", "rejected": f"hgfe {number}"} for number in range(12)
]


def make(target: Path, scratch: Path) -> None:
    """Run one job to each status, store the server's answers, and pack its folder while a job is paused."""
    target.mkdir(parents=True, exist_ok=True)
    server = AttuneUp(scratch)
    try:
        server.add_model("tiny", make_model(scratch / "tiny", family="llama", seed=0))
        server.start()
        client = client_of(server)
        succeeded, paused = run_jobs(client)
        (target / "answers.json").write_text(json.dumps(answers(client), indent=1))
        (target / "adapter.tar").write_bytes(adapter(client, succeeded))
    finally:
        server.stop()
    with tarfile.open(target / "data.tar.xz", "w:xz") as archive:
        archive.add(server.data, "data", filter=kept)
    # The same job to its end with the older code, for a comparison byte by byte on this machine.
    try:
        server.start()
        resume_to_end(client_of(server), paused)
        (target / "resumed.json").write_text(json.dumps(hashes(client_of(server), paused)))
    finally:
        server.stop()


def run_jobs(client: OpenAI) -> tuple[str, str]:
    """Return the ids of the job that succeeded and of the one that is paused."""
    chat = upload(client, rows(24))
    held_out = upload(client, rows(6, seed=1))
    broken = upload(client, b'{"messages": [{"role": "user"}]}\n' * 12)
    preferences = upload(client, "".join(json.dumps(row) + "\n" for row in PREFERENCES).encode())
    client.post(
        "/webhooks",
        body={"name": "hook", "url": "https://hooks.example/x", "event_types": ["fine_tuning.job.succeeded"]},
        cast_to=object,
    )
    succeeded = create(client, chat, steps=6, validation_file=held_out, metadata={"team": "a"}, suffix="first")
    dpo = client.fine_tuning.jobs.create(
        model="tiny", training_file=preferences, method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1}}}
    ).id
    failed = create(client, broken, steps=6)
    cancelled = create(client, chat, steps=PAUSED_STEPS)
    client.fine_tuning.jobs.cancel(cancelled)
    paused = create(client, chat, steps=PAUSED_STEPS, training={"save_every": 10}, technique={"type": "dora"})
    wait_until(lambda: step_of(client, paused) > 12, 240)
    client.fine_tuning.jobs.pause(paused)
    wait_until(lambda: str(client.fine_tuning.jobs.retrieve(paused).status) == "paused", 60)
    assert [ended(client, job).status for job in (succeeded, dpo, failed)] == ["succeeded", "succeeded", "failed"]
    return succeeded, paused


def answers(client: OpenAI) -> dict[str, Any]:
    """Every list of the API and every object on it, as the server sends them, by path."""
    found: dict[str, Any] = {}
    for path in ("/fine_tuning/jobs", "/files", "/models", "/webhooks"):
        found[path] = _get(client, path)
    for job in found["/fine_tuning/jobs"]["data"]:
        place = f"/fine_tuning/jobs/{job['id']}"
        for path in (place, f"{place}/events", f"{place}/checkpoints"):
            found[path] = _get(client, path)
    return found


def _get(client: OpenAI, path: str) -> Any:
    return client.get(path, cast_to=object)


def adapter(client: OpenAI, job_id: str) -> bytes:
    return client.files.content(client.fine_tuning.jobs.retrieve(job_id).result_files[1]).content


def resume_to_end(client: OpenAI, job_id: str) -> None:
    client.fine_tuning.jobs.resume(job_id)
    assert ended(client, job_id, 600).status == "succeeded"


def hashes(client: OpenAI, job_id: str) -> dict[str, str]:
    """SHA-256 of each file that holds what a job trained."""
    files = adapter_files(client, job_id)
    return {name: sha256(content).hexdigest() for name, content in files.items() if name.endswith(".safetensors")}


def kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out locks, logs, sockets and what a worker fetches again."""
    left_out = entry.name.endswith((".log", ".lock")) or Path(entry.name).parts[1:3] == ("work", "cache")
    return entry if entry.isdir() or (entry.isfile() and not left_out) else None


if __name__ == "__main__":
    work = Path(sys.argv[1]) / "work"
    make(Path(sys.argv[1]), work)
    shutil.rmtree(work)
