"""The client in its strict mode: the values that it refuses, as docs/openai.md lists them, and a webhook that is tried
out."""

from collections.abc import Callable

import openai
import pytest
from openai import OpenAI

from tests.end_to_end.jobs import client_of
from tests.end_to_end.test_sampling import strict
from tests.receiver import receiving
from tests.services import AttuneUp

REFUSED: dict[str, Callable[[OpenAI], object]] = {
    "a chunk before the last one has no finish_reason": lambda client: list(
        client.completions.create(model="tiny", prompt="abc", max_tokens=8, seed=5, stream=True)
    ),
    "the first token of an echoed prompt has no log-probability": lambda client: client.completions.create(
        model="tiny", prompt="abc", max_tokens=0, echo=True, logprobs=1
    ),
}


@pytest.mark.parametrize("ask", REFUSED.values(), ids=REFUSED)
def test_only_a_strict_client_refuses_an_answer(live_server: AttuneUp, ask: Callable[[OpenAI], object]) -> None:
    ask(client_of(live_server))
    with pytest.raises(openai.APIResponseValidationError):
        ask(strict(live_server))


def test_only_a_strict_client_refuses_the_purpose_of_an_evals_file(live_server: AttuneUp) -> None:
    client = client_of(live_server)
    file = client.files.create(file=("rows.jsonl", b'{"item": {}}\n'), purpose="evals")
    with pytest.raises(openai.APIResponseValidationError):
        strict(live_server).files.retrieve(file.id)
    assert client.files.delete(file.id).deleted


def test_a_webhook_is_tried_out(live_server: AttuneUp) -> None:
    client = strict(live_server)
    with receiving() as receiver:
        made = client.webhooks.create(name="mine", url=receiver.url, event_types=["fine_tuning.job.succeeded"])
        result = client.webhooks.test(made.id, event_type="fine_tuning.job.succeeded")
        client.webhooks.delete(made.id)
    assert (result.success, result.status_code) == (True, 200)
    ((_, headers, body),) = receiver.got
    event = OpenAI(api_key="x", webhook_secret=made.signing_secret).webhooks.unwrap(body, headers)
    assert event.type == "fine_tuning.job.succeeded"
