"""Runs in an environment with openai-python before 1.0: its functions of the module, which many scripts still call.

    OPENAI_API_BASE=… OPENAI_API_KEY=… python before_1_0.py TRAINING_FILE

It prints what it saw as JSON.
"""

# The installed release, which mypy reads, has other names.
# mypy: disable-error-code="attr-defined"

import json
import sys
import time
from typing import Any

import openai

with open(sys.argv[1], "rb") as rows:
    uploaded = openai.File.create(file=rows, purpose="fine-tune")
job: Any = openai.FineTuningJob.create(training_file=uploaded.id, model="tiny", hyperparameters={"n_epochs": 1})
late = openai.FineTuningJob.create(training_file=uploaded.id, model="tiny", suffix="late")
cancelled = openai.FineTuningJob.cancel(late.id)
while job.status not in ("succeeded", "failed"):
    time.sleep(0.2)
    job = openai.FineTuningJob.retrieve(job.id)
try:
    openai.FineTuningJob.create(training_file="file-none", model="tiny")
except openai.error.InvalidRequestError as error:
    refused = str(error)
asked = {"model": job.fine_tuned_model, "messages": [{"role": "user", "content": "1+1"}], "max_tokens": 4}
told = {
    "version": openai.version.VERSION,
    "status": job.status,
    "cancelled": cancelled.status,
    "latest_event": openai.FineTuningJob.list_events(id=job.id, limit=1).data[0].message,
    "listed": [each.id for each in openai.FineTuningJob.list(limit=2).data] == [late.id, job.id],
    "results": openai.File.download(job.result_files[0]).decode(),
    "refused": refused,
    "chunks": len(list(openai.ChatCompletion.create(**asked, stream=True))),
    "tokens": openai.ChatCompletion.create(**asked).usage.total_tokens,
    "deleted": openai.Model.delete(job.fine_tuned_model).deleted and openai.File.delete(uploaded.id).deleted,
}
print(json.dumps(told))
