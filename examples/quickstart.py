"""Fine-tune a model with the unmodified openai client: upload, create, follow, download.

    python examples/quickstart.py ROWS.jsonl [MODEL]

Set OPENAI_BASE_URL and OPENAI_API_KEY to the server and its key; `attune up` writes both to credentials.json.
"""

import sys
import time
from pathlib import Path

from openai import OpenAI

rows, model = Path(sys.argv[1]), (sys.argv[2:] or ["smollm2-135m-instruct"])[0]
client = OpenAI()

file = client.files.create(file=rows, purpose="fine-tune")
job = client.fine_tuning.jobs.create(
    model=model,
    training_file=file.id,
    method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 8}}},
    extra_body={"technique": {"type": "lora", "rank": 16}},  # fields that OpenAI's API does not have
)
print(job.id)

seen = set()
while job.status not in {"succeeded", "failed", "cancelled"}:
    time.sleep(2)
    job = client.fine_tuning.jobs.retrieve(job.id)
    for event in reversed(client.fine_tuning.jobs.list_events(job.id, limit=20).data):
        if event.id not in seen:
            print(event.message)
        seen.add(event.id)
if job.status != "succeeded":
    sys.exit(f"{job.status}: {job.error and job.error.message}")

archive = Path(f"{job.id}.tar")  # result file 0 is the metrics as CSV, 1 the adapter: peft's files in a tar
client.files.content(job.result_files[1]).write_to_file(archive)
print(f"{job.fine_tuned_model} is in {archive}")
