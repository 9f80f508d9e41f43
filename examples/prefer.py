"""Teach a model a preference with DPO: short answers instead of long ones.

    python examples/prefer.py [MODEL]

Set OPENAI_BASE_URL and OPENAI_API_KEY to the server and its key.
"""

import json
import sys

from openai import OpenAI
from wait import wait

QUESTIONS = {
    "Is the shop open on Sunday?": "No, it is closed on Sundays.",
    "How long does delivery take?": "Two to three days.",
    "Can I return a gift?": "Yes, within 30 days.",
    "Do you ship to Norway?": "Yes, for 9 euros.",
    "Where is my invoice?": "In your account, under Orders.",
    "Can I pay by card?": "Yes, with any card.",
    "Is the blue lamp in stock?": "Yes, four of them.",
    "Do you repair lamps?": "Yes, in our workshop.",
    "May I change my address?": "Yes, until it has been shipped.",
    "What does wrapping cost?": "Nothing.",
    "Do you sell spare parts?": "Yes, for all our lamps.",
    "Who may I call?": "Us, at 555 0100.",
}
CHATTER = "Thank you so much for this wonderful question! There are many aspects to consider before one can answer. "

pairs = [
    {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": answer}],
        "non_preferred_output": [{"role": "assistant", "content": CHATTER + answer}],
    }
    for question, answer in QUESTIONS.items()
]
rows = "".join(json.dumps(pair) + "\n" for pair in pairs).encode()

client, model = OpenAI(), (sys.argv[1:] or ["smollm2-135m-instruct"])[0]
file = client.files.create(file=("pairs.jsonl", rows), purpose="fine-tune")
job = client.fine_tuning.jobs.create(
    model=model,
    training_file=file.id,
    extra_body={
        "method": {"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 4, "batch_size": 4}, "rpo_alpha": 1.0}},
        "training": {"learning_rate": 5e-4},  # a high one, since there are few rows
    },
)
job = wait(client, job)

points = client.get(f"/fine_tuning/jobs/{job.id}/metrics", cast_to=dict[str, list[dict[str, float]]])["data"]
print("step  margin of the rewards")
for point in points:
    print(f"{int(point['step']):>4}  {point['train_rewards_margin']:+.3f}")
for name in (model, str(job.fine_tuned_model)):
    answer = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": "Do you sell bulbs?"}], max_tokens=40, temperature=0
    )
    print(f"{name}: {answer.choices[0].message.content}")
