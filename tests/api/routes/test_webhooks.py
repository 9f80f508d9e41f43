import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from openai import InvalidWebhookSignatureError, OpenAI
from openai.types.webhooks.webhook_event_type_list import WebhookEventTypeList
from sqlalchemy import select, update

from api.context import PROJECT_WEBHOOK_TESTS, Context
from api.infra.fair_limiter import ConcurrencyLimitExceeded
from api.main import create_app
from api.records import jobs, webhook_deliveries
from api.records.base import db_now
from api.records.webhook_deliveries import Delivery
from api.records.webhooks import Webhook
from api.services import webhooks
from api.settings import Settings
from api.spec.lifecycle import JobStatus
from tests.factories import a_job, a_project
from tests.receiver import Receiver, receiving
from worker.delivery.webhooks import BACK_OFF_S, deliver_due

PATH = "/v1/webhook_endpoints"
ALL = [f"fine_tuning.job.{end}" for end in ("succeeded", "failed", "cancelled")]


@pytest.fixture
def app(settings: Settings) -> Iterator[FastAPI]:
    """With an operator who lets webhooks be sent to this machine."""
    app = create_app(settings.model_copy(update={"webhook_private_hosts": "127.0.0.1"}))
    yield app
    app.state.context.database.dispose()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def register(client: TestClient, url: str, *event_types: str, name: str = "mine"):
    return client.post(PATH, json={"name": name, "url": url, "event_types": list(event_types or ALL)})


def end_a_job(context: Context, to: JobStatus = JobStatus.SUCCEEDED, project: str = "default") -> str:
    job_id = a_job(context.database, a_project(context.database, project), JobStatus.RUNNING)
    with context.database.write() as session:
        jobs.transition(session, job_id, to, message="done")
    return job_id


def log_of(client: TestClient, webhook_id: str) -> list[dict[str, object]]:
    return list(client.get(f"{PATH}/{webhook_id}/deliveries").json()["data"])


def test_each_listed_type_of_event_can_be_subscribed_to(client: TestClient) -> None:
    listed = WebhookEventTypeList.model_validate(client.get("/v1/webhook_event_types").json(), strict=True)
    assert set(ALL) <= set(listed.data)
    assert register(client, "https://example.com/hook", *listed.data).json()["event_types"] == listed.data


def test_a_clients_retry_gets_the_endpoint_that_it_has_created(client: TestClient) -> None:
    first = register(client, "https://example.com/hook").json()
    body = {"name": "mine", "url": "https://example.com/hook", "event_types": ALL}
    retry = {"x-stainless-retry-count": "1"}
    assert client.post(PATH, json=body, headers=retry).json() == first, "with its secret"
    assert client.post(PATH, json=body | {"event_types": ALL[:1]}, headers=retry).json()["id"] != first["id"]
    assert client.post(PATH, json=body).json()["id"] != first["id"]


@pytest.mark.parametrize("to", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_openais_client_unwraps_what_the_end_of_a_job_sends(
    client: TestClient, served: Context, receiver: Receiver, to: JobStatus
) -> None:
    webhook = register(client, receiver.url).json()
    job_id = end_a_job(served, to)
    assert deliver_due(served) == 1
    ((path, headers, body),) = receiver.got
    openai = OpenAI(api_key="x", webhook_secret=webhook["signing_secret"])
    event: Any = openai.webhooks.unwrap(body, headers)
    assert (path, event.type, event.data.id) == ("/hook", f"fine_tuning.job.{to}", job_id)
    with pytest.raises(InvalidWebhookSignatureError):
        openai.webhooks.unwrap(body.replace(b"ftjob", b"ftjab"), headers)
    (delivery,) = log_of(client, webhook["id"])
    assert (delivery["status"], delivery["attempts"], delivery["last_status"]) == ("delivered", 1, 200)
    assert delivery["event_id"] == event.id
    assert deliver_due(served) == 0


def test_only_who_asked_for_it_is_told(
    client: TestClient, other_project: TestClient, served: Context, receiver: Receiver
) -> None:
    failures = register(client, receiver.url, ALL[1]).json()["id"]
    theirs = register(other_project, receiver.url).json()["id"]
    end_a_job(served, JobStatus.SUCCEEDED)
    assert (deliver_due(served), log_of(client, failures), log_of(other_project, theirs)) == (0, [], [])


def test_what_was_not_taken_is_sent_again_under_the_same_event_id(
    client: TestClient, served: Context, receiver: Receiver
) -> None:
    webhook_id = register(client, receiver.url).json()["id"]
    receiver.status = 500
    end_a_job(served)
    deliver_due(served)
    (delivery,) = log_of(client, webhook_id)
    assert (delivery["status"], delivery["last_status"]) == ("pending", 500)
    assert int(str(delivery["next_attempt_at"])) >= int(str(delivery["created_at"])) + BACK_OFF_S[0]
    assert deliver_due(served) == 0  # not before its time
    receiver.status = 204
    make_due(served)
    deliver_due(served)
    assert log_of(client, webhook_id)[0]["status"] == "delivered"
    first, second = ((headers["webhook-id"], body) for _, headers, body in receiver.got)
    assert first == second


def make_due(context: Context) -> None:
    with context.database.write() as session:
        session.execute(update(Delivery).values(due_at=db_now() - 1))


def test_after_the_last_attempt_it_has_failed_and_can_be_replayed(
    client: TestClient, served: Context, receiver: Receiver
) -> None:
    webhook_id = register(client, receiver.url).json()["id"]
    receiver.status = 301
    end_a_job(served)
    for _ in BACK_OFF_S:
        make_due(served)
        deliver_due(served)
    (delivery,) = log_of(client, webhook_id)
    assert (delivery["status"], delivery["next_attempt_at"]) == ("failed", None)
    assert "301" in str(delivery["last_error"])
    receiver.status = 200
    replayed = client.post(f"{PATH}/{webhook_id}/deliveries/{delivery['id']}/replay").json()
    assert (replayed["status"], replayed["attempts"]) == ("pending", 0)
    deliver_due(served)
    assert log_of(client, webhook_id)[0]["status"] == "delivered"


def test_an_address_that_cannot_even_be_asked_spoils_nobody_elses_delivery(
    client: TestClient, other_project: TestClient, served: Context, receiver: Receiver
) -> None:
    """It was registered by an older version, whose look at addresses was a shorter one."""
    webhook_id = register(client, "https://example.com/").json()["id"]
    theirs = register(other_project, receiver.url).json()["id"]
    with served.database.write() as session:
        session.execute(update(Webhook).where(Webhook.id == webhook_id).values(url="https://xn--zz..b:99999/"))
    end_a_job(served)
    end_a_job(served, project="other")
    assert deliver_due(served) == 2
    assert [(log_of(client, webhook_id)[0][name]) for name in ("status", "attempts")] == ["pending", 1]
    assert "not a URL" in str(log_of(client, webhook_id)[0]["last_error"])
    assert log_of(other_project, theirs)[0]["status"] == "delivered"


def test_a_delivery_whose_worker_died_is_taken_up_by_another(
    client: TestClient, served: Context, receiver: Receiver
) -> None:
    register(client, receiver.url)
    end_a_job(served)
    with served.database.write() as session:
        assert len(webhook_deliveries.lease_due(session, 16, BACK_OFF_S)) == 1
    assert deliver_due(served) == 0
    make_due(served)
    assert deliver_due(served) == 1
    assert len(receiver.got) == 1


def test_an_endpoint_that_cannot_be_sent_to_keeps_no_other_from_being_told_once(
    client: TestClient, other_project: TestClient, served: Context, receiver: Receiver
) -> None:
    mine, theirs = register(client, receiver.url).json()["id"], register(other_project, receiver.url).json()["id"]
    with served.database.write() as session:
        session.execute(update(Webhook).where(Webhook.id == theirs).values(url="https://a..b/"))
    end_a_job(served, project="other")
    end_a_job(served)
    assert deliver_due(served) == 2
    assert [log_of(client, mine)[0]["status"], log_of(other_project, theirs)[0]["last_status"]] == ["delivered", None]


def test_a_status_that_is_rolled_back_is_not_told(client: TestClient, served: Context, receiver: Receiver) -> None:
    webhook_id = register(client, receiver.url).json()["id"]
    job_id = a_job(served.database, a_project(served.database), JobStatus.RUNNING)
    with pytest.raises(jobs.StaleFence):
        end_twice(served, job_id)
    assert log_of(client, webhook_id) == []


def end_twice(context: Context, job_id: str) -> None:
    """In one transaction, of which the second half is refused."""
    with context.database.write() as session:
        for _ in range(2):
            jobs.transition(session, job_id, JobStatus.FAILED, message="done")


def test_a_secret_is_shown_once_and_can_be_changed(client: TestClient, served: Context, receiver: Receiver) -> None:
    webhook = register(client, receiver.url).json()
    shown = client.get(f"{PATH}/{webhook['id']}").json()
    assert "signing_secret" not in shown
    assert shown["signing_secret_hint"].endswith(webhook["signing_secret"][-4:])
    keep = {"keep_old_secret_active_for_24_hours": True}
    new = client.post(f"{PATH}/{webhook['id']}/rotate_secret", json=keep).json()["signing_secret"]
    end_a_job(served)
    deliver_due(served)
    for secret in (webhook["signing_secret"], new):
        OpenAI(api_key="x", webhook_secret=secret).webhooks.unwrap(receiver.got[0][2], receiver.got[0][1])
    newest = client.post(f"{PATH}/{webhook['id']}/rotate_secret").json()["signing_secret"]
    end_a_job(served)
    deliver_due(served)
    OpenAI(api_key="x", webhook_secret=newest).webhooks.unwrap(receiver.got[1][2], receiver.got[1][1])
    with pytest.raises(InvalidWebhookSignatureError):
        OpenAI(api_key="x", webhook_secret=new).webhooks.unwrap(receiver.got[1][2], receiver.got[1][1])


def test_endpoints_are_listed_changed_and_deleted(client: TestClient, served: Context, receiver: Receiver) -> None:
    first, second = (register(client, receiver.url, name=name).json()["id"] for name in ("one", "two"))
    page = client.get(PATH, params={"limit": 1}).json()
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([second], True)
    assert client.get("/v1/webhooks", params={"after": second}).json()["data"][0]["id"] == first
    changed = client.post(f"{PATH}/{first}", json={"name": "new", "event_types": ALL[:1]}).json()
    assert (changed["name"], changed["url"], changed["event_types"]) == ("new", receiver.url, ALL[:1])
    end_a_job(served)
    assert client.delete(f"{PATH}/{first}").json()["deleted"]
    assert client.get(f"{PATH}/{first}").status_code == 404
    assert deliver_due(served) == 1


def test_a_sample_is_sent_at_once(client: TestClient, receiver: Receiver) -> None:
    webhook = register(client, receiver.url).json()
    receiver.status = 418
    answer = client.post(f"{PATH}/{webhook['id']}/test", json={"event_type": ALL[0]}).json()
    assert (answer["status_code"], answer["success"]) == (418, True)
    OpenAI(api_key="x", webhook_secret=webhook["signing_secret"]).webhooks.unwrap(
        receiver.got[0][2], receiver.got[0][1]
    )


def test_a_project_sends_only_a_few_samples_at_once(
    client: TestClient, served: Context, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(client, receiver.url)
    with served.database.read() as session:
        webhook = session.scalars(select(Webhook)).one()
    posts = 0

    async def main() -> list[int | BaseException]:
        answered = asyncio.Event()

        async def post(*_: object) -> int:
            nonlocal posts
            posts += 1
            await answered.wait()
            return posts

        monkeypatch.setattr(webhooks, "post", post)
        tests = [
            asyncio.create_task(webhooks.test(served, webhook, ALL[0])) for _ in range(2 * PROJECT_WEBHOOK_TESTS + 1)
        ]
        await asyncio.wait(tests, return_when=asyncio.FIRST_COMPLETED)
        assert posts == PROJECT_WEBHOOK_TESTS
        answered.set()
        return await asyncio.gather(*tests, return_exceptions=True)

    ends = asyncio.run(main())
    assert [isinstance(end, ConcurrencyLimitExceeded) for end in ends] == [False] * (len(ends) - 1) + [True]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"url": "http://example.com/hook"}, "url"),
        ({"url": "https://10.0.0.1/hook"}, "url"),
        ({"event_types": ["response.completed"]}, "event_types.0"),
        ({"event_types": []}, "event_types"),
        ({"name": ""}, "name"),
    ],
)
def test_what_cannot_be_registered_is_named(client: TestClient, body: dict[str, object], param: str) -> None:
    given = {"name": "mine", "url": "https://example.com/hook", "event_types": ALL} | body
    refused = client.post(PATH, json=given)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_webhooks_are_their_projects_own(
    client: TestClient, other_project: TestClient, served: Context, receiver: Receiver
) -> None:
    webhook_id = register(client, receiver.url).json()["id"]
    end_a_job(served)
    (delivery,) = log_of(client, webhook_id)
    path = f"{PATH}/{webhook_id}"
    answers = [
        other_project.get(path),
        other_project.post(path, json={"name": "x"}),
        other_project.delete(path),
        other_project.post(f"{path}/rotate_secret", json={}),
        other_project.post(f"{path}/test", json={"event_type": ALL[0]}),
        other_project.get(f"{path}/deliveries"),
        other_project.post(f"{path}/deliveries/{delivery['id']}/replay"),
    ]
    assert [answer.status_code for answer in answers] == [404] * 7
