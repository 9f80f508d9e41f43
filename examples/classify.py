"""Train an encoder to sort a shop's mail, and see which kinds it confuses.

    python examples/classify.py [MODEL]

MODEL is an encoder. Add one: `attune models add minilm sentence-transformers/all-MiniLM-L6-v2`.
Set OPENAI_BASE_URL and OPENAI_API_KEY to the server and its key.
"""

import sys
from pathlib import Path

from openai import OpenAI
from wait import wait

MAIL = Path(__file__).with_name("mail.csv")

client = OpenAI()
file = client.files.create(file=MAIL, purpose="fine-tune")
job = client.fine_tuning.jobs.create(
    model=(sys.argv[1:] or ["minilm"])[0],
    training_file=file.id,
    extra_body={
        "method": {"type": "classification", "classification": {"hyperparameters": {"n_epochs": 8, "batch_size": 8}}},
        "technique": {"type": "full"},
        "training": {"learning_rate": 5e-4, "validation_split": 0.25, "eval_every": 4},
    },
)
job = wait(client, job)

compared = job.model_dump()["evaluation"]
print(f"accuracy on {compared['rows']} held-out messages")
for model in ("base", "tuned"):
    print(f"  {model:<5} {compared[model]['accuracy']:.0%}")
for sample in compared["samples"]:
    print(f"  {sample['prompt'][:60]!r} is {sample['reference']}, and the model says {sample['tuned']}")
