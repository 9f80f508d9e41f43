"""Teach a model to call a tool, and read the call that it writes.

    python examples/tool_calls.py [MODEL]

MODEL is a language model whose chat template has tools. Add one: `attune models add qwen Qwen/Qwen3-0.6B`.
Set OPENAI_BASE_URL and OPENAI_API_KEY to the server and its key.
"""

import json
import sys
from typing import Any

from openai import OpenAI
from wait import wait

CITIES = ["Oslo", "Lima", "Kyoto", "Accra", "Quito", "Turin", "Perth", "Sofia", "Dakar", "Porto", "Hanoi", "Malmo"]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Return the weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def row(city: str) -> dict[str, Any]:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": json.dumps({"city": city})},
    }
    return {
        "messages": [
            {"role": "user", "content": f"Do I need an umbrella in {city}?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ],
        "tools": [TOOL],
    }


client, model = OpenAI(), (sys.argv[1:] or ["qwen"])[0]
rows = "".join(json.dumps(row(city)) + "\n" for city in CITIES).encode()
file = client.files.create(file=("tools.jsonl", rows), purpose="fine-tune")

# The preview shows the tokens that the model learns to write: the call, and nothing of the tool's description.
body = {"model": model, "training_file": file.id, "rows": 1}
preview: Any = client.post("/fine_tuning/previews", body=body, cast_to=object)
tokens = preview["rows"][0]["sequences"][0]
learned = [text for text, weight in zip(tokens["token_texts"], tokens["loss_weights"], strict=True) if weight]
print("learned:", "".join(learned))

job = wait(client, client.fine_tuning.jobs.create(model=model, training_file=file.id))
sample: Any = job.model_dump()["evaluation"]["samples"][0]
print("wanted: ", sample["reference"])
print("written:", sample["tuned"])
