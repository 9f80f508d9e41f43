"""The API is killed in the middle of an event stream."""

from collections.abc import Iterator
from itertools import islice

import httpx
import pytest

from api.context import Context
from api.services import keys
from api.spec.lifecycle import JobStatus
from tests.conftest import EMBEDDED
from tests.events import add_events, end, told
from tests.factories import a_job, a_project
from tests.services.parts import AttuneApi

SETTINGS = EMBEDDED


@pytest.fixture
def api(context: Context, tmp_path) -> Iterator[AttuneApi]:
    api = AttuneApi(tmp_path, context.settings)
    api.start()
    yield api
    api.stop()


def test_the_client_takes_it_up_and_no_event_is_lost_or_doubled(context: Context, api: AttuneApi) -> None:
    job_id = a_job(context.database, a_project(context.database), JobStatus.RUNNING)
    written = add_events(context.database, job_id, 6_000)
    _, plain = keys.create(context, project="default", name="test", scope="read")
    headers, seen = {"authorization": f"Bearer {plain}"}, []
    url = f"{api.base_url}/fine_tuning/jobs/{job_id}/events?stream=true"
    with httpx.stream("GET", url, headers=headers) as answer:
        lines = answer.iter_lines()
        seen += [event_id for event_id, _ in islice(told(lines), 2_345)]
        api.kill()
        with pytest.raises(httpx.HTTPError):
            seen += [event_id for event_id, _ in told(lines)]
    written += add_events(context.database, job_id, 4_000, start=6_000)
    end(context.database, job_id)
    api.start()
    with httpx.stream("GET", url, headers=headers | {"Last-Event-ID": seen[-1]}) as answer:
        seen += [event_id for event_id, _ in told(answer.iter_lines())]
    assert seen[:-1] == written
