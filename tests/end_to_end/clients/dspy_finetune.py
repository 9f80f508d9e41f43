"""Runs in an environment with DSPy: fine-tunes with its own provider for OpenAI, and asks the tuned model.

    OPENAI_BASE_URL=… OPENAI_API_KEY=… python dspy_finetune.py TOLD.json

It writes what came out to that file: DSPy prints at will.
"""

import json
import pathlib
import sys

import dspy
from dspy.clients.openai import OpenAIProvider
from dspy.clients.utils_finetune import TrainDataFormat

ROWS = [
    {"messages": [{"role": "user", "content": f"{n}+1"}, {"role": "assistant", "content": f"{n + 1}"}]}
    for n in range(20)
]

untuned = dspy.LM("openai/tiny", provider=OpenAIProvider(), max_tokens=4, cache=False)
job = untuned.finetune(ROWS, TrainDataFormat.CHAT, train_kwargs={"n_epochs": 1, "batch_size": 4})
tuned = job.result()
if isinstance(tuned, Exception):
    raise tuned
# DSPy asks through LiteLLM, which takes a name of `ft:` for OpenAI's only if OpenAI has such a base model.
asked = dspy.LM(f"openai/{tuned.model}", max_tokens=4, cache=False)
told = {"status": job.status().name, "file": job.provider_file_id, "model": tuned.model, "answer": asked("1+1")}

late = dspy.LM("openai/tiny", provider=OpenAIProvider()).finetune(ROWS, TrainDataFormat.CHAT, train_kwargs={})
while late.provider_job_id is None:
    late.thread.join(0.05)
told["cancelled"] = late.provider_job_id
late.cancel()
pathlib.Path(sys.argv[1]).write_text(json.dumps(told))
