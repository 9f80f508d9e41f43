"""Batches through the unmodified client, on a real sampler."""

import json
from typing import Any

from openai import OpenAI

from tests.end_to_end.jobs import wait_until
from tests.end_to_end.test_sampling import HELLO, strict
from tests.services import AttuneUp

ENDED = ("completed", "failed", "expired", "cancelled")
BODY: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 4, "temperature": 0}


def begin(client: OpenAI, bodies: list[dict[str, Any]], endpoint: Any = "/v1/chat/completions") -> str:
    """The custom ids are the numbers of the lines, from 0."""
    lines = [
        {"custom_id": str(number), "method": "POST", "url": endpoint, "body": body}
        for number, body in enumerate(bodies)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"team": "a"}
    )
    return batch.id


def rows_of(client: OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    rows = map(json.loads, client.files.content(file_id).text.splitlines())
    return {row["custom_id"]: row["response"] for row in rows}


def test_a_batch_answers_as_the_endpoint_does_and_names_what_is_wrong(live_server: AttuneUp) -> None:
    client = strict(live_server)
    batch_id = begin(client, [BODY, BODY | {"model": "none"}, BODY | {"seed": 1}])
    assert batch_id in [batch.id for batch in client.batches.list(limit=5)]
    wait_until(lambda: client.batches.retrieve(batch_id).status in ENDED)
    batch = client.batches.retrieve(batch_id)
    assert (batch.status, batch.metadata) == ("completed", {"team": "a"})
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 1)
    direct = client.chat.completions.create(**BODY)
    answers = rows_of(client, batch.output_file_id)
    assert {name: each["body"]["choices"][0]["message"]["content"] for name, each in answers.items()} == dict.fromkeys(
        ("0", "2"), direct.choices[0].message.content
    )
    assert batch.usage is not None
    assert direct.usage is not None
    assert batch.usage.input_tokens == 2 * direct.usage.prompt_tokens
    (refused,) = rows_of(client, batch.error_file_id).values()
    assert (refused["status_code"], refused["body"]["error"]["code"]) == (404, "model_not_found")


def test_a_cancelled_batch_ends_while_its_answers_would_take_minutes(live_server: AttuneUp) -> None:
    client = strict(live_server)
    long = {"model": "tiny", "prompt": "abcd", "max_tokens": 100, "n": 16}
    batch_id = begin(client, [long] * 200, "/v1/completions")
    wait_until(lambda: client.batches.retrieve(batch_id).status == "in_progress")
    assert client.chat.completions.create(**BODY).choices, "chats have precedence"
    assert client.batches.cancel(batch_id).status in ("cancelling", "cancelled")
    wait_until(lambda: client.batches.retrieve(batch_id).status == "cancelled", 30)
    errors = client.batches.retrieve(batch_id).error_file_id
    assert errors is not None
    last = json.loads(client.files.content(errors).text.splitlines()[-1])
    assert (last["custom_id"], last["error"]["code"]) == ("199", "batch_cancelled")
