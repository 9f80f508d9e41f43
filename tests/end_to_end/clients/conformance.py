"""Runs inside the environment of one version of OpenAI's client, and tells what that client saw, as JSON.

    python conformance.py BASE_URL API_KEY READ_ONLY_KEY TRAINING_FILE TOO_SHORT_FILE

No test framework and no module of Attune is at hand there. The client is used as anyone uses it, but for
`_strict_response_validation`: every answer that is not as the client's types say is then an error.
"""

import hashlib
import io
import json
import pathlib
import sys
import tarfile
import time

import openai

BASE_URL, API_KEY, READ_ONLY_KEY, TRAINING_FILE, TOO_SHORT_FILE = sys.argv[1:]
INJECTED = (402, 403, 408, 409, 413, 415, 422, 429, 500, 502, 503, 504)
PAGE = 7
MANY = 200
"""Items and requests of what is cancelled: a few would be done first if this process gets no turn for a while."""


def client_with(key):
    return openai.OpenAI(base_url=BASE_URL, api_key=key, _strict_response_validation=True)


client = client_with(API_KEY)
jobs = client.fine_tuning.jobs


def upload(path):
    with open(path, "rb") as file:
        return client.files.create(file=file, purpose="fine-tune")


def create(training_file, **fields):
    hyperparameters = {"n_epochs": 2, "batch_size": 4}
    method = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    return jobs.create(**{"model": "tiny", "training_file": training_file.id, "method": method, **fields})


def finish(job):
    deadline = time.monotonic() + 120
    while job.status not in ("succeeded", "failed", "cancelled") and time.monotonic() < deadline:
        time.sleep(0.2)
        job = jobs.retrieve(job.id)
    return job


def main_path():
    """Upload, create, poll, events, checkpoints, results, adapter, model."""
    training_file = upload(TRAINING_FILE)
    extras = {"technique": {"type": "lora", "rank": 4}, "training": {"learning_rate": 1e-3}}
    created = create(training_file, suffix="conformance", seed=7, metadata={"by": "test"}, extra_body=extras)
    job = finish(created)
    if job.status != "succeeded":
        return {"created": created.to_dict(), "job": job.to_dict()}
    paged = [event.to_dict() for event in jobs.list_events(job.id, limit=PAGE)]
    checkpoints = [checkpoint.to_dict() for checkpoint in jobs.checkpoints.list(job.id)]
    csv, adapter = (client.files.content(file_id).content for file_id in job.result_files)
    with tarfile.open(fileobj=io.BytesIO(adapter)) as archive:
        members = archive.getnames()
    return {
        "created": created.to_dict(),
        "job": job.to_dict(),
        "events": [event.to_dict() for event in jobs.list_events(job.id, limit=100).data],
        "events_paged": paged,
        "latest_event": jobs.list_events(job.id, limit=1).data[0].message,
        "checkpoints": checkpoints,
        "csv": csv.decode(),
        "adapter": members,
        "result_files": [client.files.retrieve(file_id).to_dict() for file_id in job.result_files],
        "listed_jobs": [listed.id for listed in jobs.list(limit=PAGE).data],
        "model": client.models.retrieve(job.fine_tuned_model).to_dict(),
        "listed_models": [model.id for model in client.models.list()],
        "content_is_what_was_sent": client.files.content(training_file.id).content == open(TRAINING_FILE, "rb").read(),
        "listed_files": [listed.id for listed in client.files.list(purpose="fine-tune")],
        "shared": shared(checkpoints[0]["fine_tuned_model_checkpoint"]),
        "deleted_model": client.models.delete(job.fine_tuned_model).to_dict(),
        "deleted_file": client.files.delete(training_file.id).to_dict(),
    }


def shared(checkpoint):
    """Permissions on a checkpoint."""
    permissions = client.fine_tuning.checkpoints.permissions
    granted = permissions.create(checkpoint, project_ids=["default"]).data
    listed = permissions.retrieve(checkpoint).to_dict()
    deleted = permissions.delete(granted[0].id, fine_tuned_model_checkpoint=checkpoint).to_dict()
    return {"granted": granted[0].to_dict(), "listed": listed, "deleted": deleted}


def other_ends():
    """A job of the deprecated form that is cancelled, and one whose file does not do."""
    training_file = upload(TRAINING_FILE)
    old_form = jobs.create(model="tiny", training_file=training_file.id, hyperparameters={"n_epochs": 50})
    return {
        "old_form": old_form.to_dict(),
        "cancelled": jobs.cancel(old_form.id).to_dict(),
        "failed": finish(create(upload(TOO_SHORT_FILE))).to_dict(),
    }


def graded():
    """Graders that are validated and run, alone and combined."""
    graders = client.fine_tuning.alpha.graders
    texts = {"input": "{{ sample.output_text }}", "reference": "{{ item.answer }}"}
    check = {"type": "string_check", "name": "right", "operation": "eq", **texts}
    likeness = {"type": "text_similarity", "name": "near", "evaluation_metric": "fuzzy_match", **texts}
    several = {"type": "multi", "name": "all", "graders": check, "calculate_output": "right / 2"}
    judge = [{"role": "user", "content": "{{ sample.output_text }}"}]
    score = {"type": "score_model", "name": "judge", "model": "tiny", "input": judge, "range": [0, 1]}
    run = {"check": check, "likeness": likeness, "several": several}
    sent = {**run, "score": score}
    rows = {"model_sample": "Paris", "item": {"answer": "Paris"}}
    return {
        "sent": sent,
        "validated": {name: graders.validate(grader=grader).grader.to_dict() for name, grader in sent.items()},
        "right": {name: graders.run(grader=grader, **rows).to_dict() for name, grader in run.items()},
        "missing": graders.run(grader=check, model_sample="Paris").to_dict(),
    }


def mistakes():
    """Each thing that a client can do wrong, by name."""
    training_file = upload(TRAINING_FILE)
    reader, stranger = client_with(READ_ONLY_KEY), client_with("sk-wrong")

    def marked(name):
        return {"extra_headers": {"x-attempt-of": name}}

    def supervised(**hyperparameters):
        return {"method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}

    ended = jobs.cancel(create(training_file, **supervised(n_epochs=50, batch_size=1)).id)
    return {
        "epochs out of range": lambda m: create(training_file, **supervised(n_epochs=0), **m),
        "unknown field": lambda m: create(training_file, extra_body={"lerning_rate": 1}, **m),
        "unknown method": lambda m: create(training_file, method={"type": "magic"}, **m),
        "long suffix": lambda m: create(training_file, suffix="s" * 65, **m),
        "unknown base model": lambda m: create(training_file, model="gpt-17", **m),
        "unknown training file": lambda m: jobs.create(model="tiny", training_file="file-none", **m),
        "wrong purpose": lambda m: client.files.create(file=b"{}", purpose="vision", **m),
        "empty file": lambda m: client.files.create(file=b"", purpose="fine-tune", **m),
        "cancel after the end": lambda m: jobs.cancel(ended.id, **m),
        "no such cursor": lambda m: jobs.list_events(ended.id, after="ftevent-none", **m),
        "limit out of range": lambda m: jobs.list(limit=-1, **m),
        "wrong key": lambda m: stranger.models.list(**m),
        "read-only key": lambda m: reader.fine_tuning.jobs.cancel(ended.id, **m),
        "no such job": lambda m: jobs.retrieve("ftjob-none", **m),
        "no such file": lambda m: client.files.retrieve("file-none", **m),
        "no such model": lambda m: client.models.retrieve("owner/none", **m),
        "no such path": lambda m: client.get("/nowhere", cast_to=object, options={"headers": m["extra_headers"]}),
        "wrong verb": lambda m: client.patch("/files", cast_to=object, options={"headers": m["extra_headers"]}),
        "grader with a missing module": lambda m: client.fine_tuning.alpha.graders.validate(
            grader={"type": "python", "name": "p", "source": "import numpy\ndef grade(sample, item): return 1.0"}, **m
        ),
        "grader with a wrong metric": lambda m: client.fine_tuning.alpha.graders.run(
            grader={"type": "text_similarity", "name": "t", "input": "", "reference": "", "evaluation_metric": "x"},
            model_sample="",
            **m,
        ),
        "body too large": lambda m: create(training_file, extra_body={"x": "x" * 2_000_000}, **m),
    }, marked


def in_parts():
    """A file uploaded in parts by the client's own helper, with parts in another order, and given up."""
    content = pathlib.Path(TRAINING_FILE).read_bytes()
    named = {"filename": "rows.jsonl", "bytes": len(content), "mime_type": "text/jsonl", "purpose": "fine-tune"}
    md5 = hashlib.md5(content).hexdigest()
    chunked = client.uploads.upload_file_chunked(file=content, part_size=500, md5=md5, **named)
    upload = client.uploads.create(**named)
    half = len(content) // 2
    last = client.uploads.parts.create(upload.id, data=content[half:])
    first = client.uploads.parts.create(upload.id, data=content[:half])
    ordered = client.uploads.complete(upload.id, part_ids=[first.id, last.id])
    return {
        "chunked": chunked.to_dict(),
        "ordered": ordered.to_dict(),
        "contents_are_what_was_sent": [
            client.files.content(done.file.id).content == content for done in (chunked, ordered)
        ],
        "cancelled": client.uploads.cancel(client.uploads.create(**named).id).to_dict(),
    }


def as_azure():
    """Azure's client, which writes another path, another header and a version."""
    azure = openai.AzureOpenAI(
        azure_endpoint=BASE_URL.removesuffix("/v1"),
        api_key=API_KEY,
        api_version="2024-10-21",
        _strict_response_validation=True,
    )
    file = azure.files.create(file=("rows.jsonl", b"{}\n"), purpose="fine-tune")
    return {
        "file": azure.files.delete(file.id).to_dict(),
        "jobs": [job.id for job in azure.fine_tuning.jobs.list(limit=1).data],
        "models": [model.id for model in azure.models.list()],
    }


def told():
    """Webhook endpoints, of which only later clients know."""
    if not hasattr(client.webhooks, "create"):
        return None
    given = {"name": "mine", "url": "https://example.com/h", "event_types": ["fine_tuning.job.failed"]}
    made = client.webhooks.create(**given)
    return {
        "made": made.to_dict(),
        "updated": client.webhooks.update(made.id, name="new").to_dict(),
        "retrieved": client.webhooks.retrieve(made.id).to_dict(),
        "types": client.webhooks.event_types.list().data,
        "listed": [each.id for each in client.webhooks.list()],
        "rotated": client.webhooks.rotate_secret(made.id).to_dict(),
        "deleted": client.webhooks.delete(made.id).to_dict(),
    }


ITEM = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
SAID = {"input": "{{ sample.output_text }}", "reference": "{{ item.word }}"}
JUDGED = {"model": "tiny", "input": [{"role": "user", "content": "Is {{ sample.output_text }} a word?"}]}
CRITERIA = [
    {"type": "string_check", "name": "says it", "operation": "ilike", **SAID},
    {"type": "text_similarity", "name": "near", "evaluation_metric": "fuzzy_match", "pass_threshold": 0, **SAID},
    {"type": "python", "name": "a text", "source": "def grade(sample, item):\n    return 1.0"},
    {"type": "label_model", "name": "labelled", "labels": ["yes", "no"], "passing_labels": ["yes", "no"], **JUDGED},
    {"type": "score_model", "name": "scored", "range": [0, 1], "pass_threshold": 0, **JUDGED},
]


def sampled(count):
    """The data source of a run over so many items."""
    messages = [{"role": "user", "content": "{{ item.word }}"}]
    return {
        "type": "completions",
        "model": "tiny",
        "source": {"type": "file_content", "content": [{"item": {"word": "ab"[row % 2]}} for row in range(count)]},
        "input_messages": {"type": "template", "template": messages},
        "sampling_params": {"max_completion_tokens": 4, "temperature": 0},
    }


def evaluated():
    """Every method of evals, of their runs and of the runs' items."""
    made = client.evals.create(
        name="first",
        data_source_config={"type": "custom", "item_schema": ITEM, "include_sample_schema": True},
        testing_criteria=CRITERIA,
    )
    runs = client.evals.runs
    begun = runs.create(made.id, name="run", data_source=sampled(2))
    run = until(lambda: runs.retrieve(begun.id, eval_id=made.id), "completed", "failed", "canceled")
    found = list(runs.output_items.list(run.id, eval_id=made.id))
    halted = runs.create(made.id, name="halted", data_source=sampled(MANY))
    cancelled = runs.cancel(halted.id, eval_id=made.id)
    return {
        "made": made.to_dict(),
        "updated": client.evals.update(made.id, name="second").to_dict(),
        "retrieved": client.evals.retrieve(made.id).to_dict(),
        "listed": [each.id for each in client.evals.list(order="desc")],
        "run": run.to_dict(),
        "runs": [each.id for each in runs.list(made.id)],
        "items": [each.to_dict() for each in found],
        "item": runs.output_items.retrieve(found[0].id, eval_id=made.id, run_id=run.id).to_dict(),
        "cancelled": cancelled.status,
        "deleted_run": runs.delete(run.id, eval_id=made.id).to_dict(),
        "deleted": client.evals.delete(made.id).to_dict(),
    }


def in_batches():
    """Every method of batches."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "abc"}], "max_tokens": 2}

    def create(count):
        lines = [
            json.dumps({"custom_id": f"{row}", "method": "POST", "url": "/v1/chat/completions", "body": body})
            for row in range(count)
        ]
        file = client.files.create(file=("batch.jsonl", "\n".join(lines).encode()), purpose="batch")
        given = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return client.batches.create(**given)

    begun = create(1)
    batch = until(lambda: client.batches.retrieve(begun.id), "completed", "failed", "expired")
    return {
        "batch": batch.to_dict(),
        "answers": [json.loads(answer) for answer in client.files.content(batch.output_file_id).text.splitlines()],
        "listed": [each.id for each in client.batches.list(limit=PAGE).data],
        "cancelled": client.batches.cancel(create(MANY).id).status,
    }


def until(ask, *statuses):
    deadline = time.monotonic() + 120
    while (seen := ask()).status not in statuses and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


def retried():
    """The same create as the client would send it again."""
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 50, "batch_size": 1}}}
    body = {"model": "tiny", "training_file": upload(TRAINING_FILE).id, "method": method}
    first = jobs.create(**body)
    again = jobs.create(**body, extra_headers={"x-stainless-retry-count": "1"})
    keyed = [jobs.create(**body, extra_headers={"Idempotency-Key": first.id}) for _ in range(2)]
    for job in (first, keyed[0]):
        jobs.cancel(job.id)
    return {"first": first.id, "again": again.id, "keyed": [job.id for job in keyed]}


def errors():
    calls, marked = mistakes()
    seen = {name: outcome(lambda call=call, name=name: call(marked(name))) for name, call in calls.items()}
    for status in INJECTED:
        headers = {"x-attempt-of": f"injected {status}", "x-inject": str(status)}
        seen[f"injected {status}"] = outcome(lambda headers=headers: client.models.list(extra_headers=headers))
    return seen


def outcome(call):
    try:
        call()
    except openai.APIStatusError as error:
        return {
            "exception": type(error).__name__,
            "status": error.status_code,
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
            "request_id": error.request_id,
        }
    return {"exception": None}


parts = {
    "main": main_path,
    "other_ends": other_ends,
    "graded": graded,
    "in_parts": in_parts,
    "as_azure": as_azure,
    "told": told,
    "evaluated": evaluated,
    "in_batches": in_batches,
    "retried": retried,
    "errors": errors,
}
print(json.dumps({"version": openai.__version__, **{name: part() for name, part in parts.items()}}))
