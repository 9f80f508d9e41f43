"""Runs in an environment with LiteLLM: files, jobs and answers as it asks OpenAI for them, and as it asks Azure.

    python litellm_jobs.py BASE_URL API_KEY TRAINING_FILE TOLD.json

It writes what came out to that file: LiteLLM prints at will.
"""

import json
import pathlib
import sys
import time
from typing import Any

import litellm

base_url, api_key, rows, told = sys.argv[1:]
OPENAI = {"api_key": api_key, "api_base": base_url}
AZURE = {"api_key": api_key, "api_base": base_url.removesuffix("/v1"), "api_version": "2024-10-21"}
MESSAGES = [{"role": "user", "content": "1+1"}]


def fine_tuned(where: dict[str, Any]) -> dict[str, Any]:
    with open(rows, "rb") as file:
        uploaded = litellm.create_file(file=file, purpose="fine-tune", **where)
    body = {"model": "tiny", "training_file": uploaded.id, "hyperparameters": {"n_epochs": 1}}
    job = litellm.create_fine_tuning_job(**body, suffix="lite", seed=3, **where)
    late = litellm.create_fine_tuning_job(**body, **where)
    cancelled = litellm.cancel_fine_tuning_job(fine_tuning_job_id=late.id, **where)
    while job.status not in ("succeeded", "failed"):
        time.sleep(0.2)
        job = litellm.retrieve_fine_tuning_job(fine_tuning_job_id=job.id, **where)
    return {
        "same": litellm.file_content(file_id=uploaded.id, **where).content == pathlib.Path(rows).read_bytes(),
        "status": job.status,
        "model": job.fine_tuned_model,
        "cancelled": cancelled.status,
        "listed": job.id in [each.id for each in litellm.list_fine_tuning_jobs(limit=10, **where)],
        "deleted": litellm.file_delete(file_id=uploaded.id, **where).deleted,
    }


def answered(model: str, where: dict[str, Any]) -> dict[str, Any]:
    asked = {"model": model, "messages": MESSAGES, "max_tokens": 4, "temperature": 0, **where}
    whole = litellm.completion(**asked, logprobs=True, top_logprobs=2)
    chunks = litellm.completion(**asked, stream=True, stream_options={"include_usage": True})
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return {
        "same": text == whole.choices[0].message.content,
        "logprobs": len(whole.choices[0].logprobs.content),
        "tokens": whole.usage.completion_tokens,
    }


openai = fine_tuned({"custom_llm_provider": "openai", **OPENAI})
azure = fine_tuned({"custom_llm_provider": "azure", **AZURE})
openai["answer"] = answered(f"openai/{openai['model']}", OPENAI)
azure["answer"] = answered(f"azure/{azure['model']}", AZURE)
pathlib.Path(told).write_text(json.dumps({"openai": openai, "azure": azure}))
