"""An eval's run outlives `kill -9` of each part, of the database too, and each item is graded once: `make soak`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types.evals import RunRetrieveResponse

from api.services import base_models, keys
from api.settings import Settings
from tests.conftest import opened
from tests.end_to_end.jobs import wait_until
from tests.end_to_end.test_evals import CRITERIA, ITEM_SCHEMA, SAMPLED, content
from tests.services import AttunePart, Postgres, Valkey
from tests.services.process import answers, free_ports

ITEMS = 500
FEW = 60
"""Items of another project's run, which is created after the long one."""
KILLS = 12
QUICK = {"ATTUNE_LEASE_S": "6", "ATTUNE_HEARTBEAT_S": "1", "ATTUNE_POLL_S": "0.5", "ATTUNE_SWEEP_S": "1"}


@pytest.fixture
def environment(postgres: Postgres, valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    valkey.flush()
    database = postgres.database()
    # The tests' PostgreSQL acknowledges a transaction before it is written. A kill would lose it.
    postgres.execute(f"ALTER DATABASE {database} SET synchronous_commit = on")
    env = {
        "ATTUNE_DATABASE_URL": postgres.url(database),
        "ATTUNE_BROKER_URL": valkey.url,
        "ATTUNE_STORAGE_URL": f"file://{tmp_path}/objects",
        "ATTUNE_PORT": str(free_ports(1)[0]),
        **QUICK,
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env


@pytest.fixture
def parts(environment: dict[str, str], tmp_path: Path) -> Iterator[dict[str, AttunePart]]:
    """The commands by name. None is started."""
    with ExitStack() as stack:
        found = {}
        for name in ("migrate", "api", "worker"):
            folder = tmp_path / name
            folder.mkdir()
            found[name] = AttunePart(folder, name, env={**environment, "ATTUNE_DATA_DIR": str(folder)})
            stack.callback(found[name].stop)
        yield found


@pytest.mark.soak
def test_each_of_500_items_is_graded_once_whatever_is_killed(
    parts: dict[str, AttunePart],
    environment: dict[str, str],
    postgres: Postgres,
    valkey: Valkey,
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    address = f"http://127.0.0.1:{environment['ATTUNE_PORT']}"
    restart: dict[str, Callable[[], None]] = {
        "worker": parts["worker"].start,
        "api": lambda: parts["api"].start(ready=lambda: answers(f"{address}/readyz")),
        "valkey": valkey.start,
        "postgres": postgres.start,
    }
    kill = {"worker": parts["worker"].kill, "api": parts["api"].kill, "valkey": valkey.kill, "postgres": postgres.kill}
    parts["migrate"].start()
    parts["migrate"].finish()
    with opened(Settings(data_dir=tmp_path)) as context:
        base_models.register(context, "tiny", tiny_base)
        many, few = (
            OpenAI(
                base_url=f"{address}/v1",
                api_key=keys.create(context, project=project, name="test", scope="write")[1],
                max_retries=8,
            )
            for project in ("many", "few")
        )
    restart["api"]()
    restart["worker"]()
    long, short = begin(many, ITEMS), begin(few, FEW)

    left_when_short_ended = None
    for number, name in enumerate(islice(cycle(kill), KILLS), start=1):
        wait_until(lambda at=number * ITEMS // (KILLS + 2): graded(many, long) >= at, timeout_s=600)  # type: ignore[misc]
        print(f"kill -9 {name} after {graded(many, long)} items")
        kill[name]()
        restart[name]()
        if left_when_short_ended is None and run_of(few, short).status == "completed":
            left_when_short_ended = ITEMS - graded(many, long)
    for client, run, items in ((many, long, ITEMS), (few, short, FEW)):
        wait_until(lambda c=client, r=run: run_of(c, r).status == "completed", timeout_s=600)  # type: ignore[misc]
        check(client, run, items)
    assert left_when_short_ended, "the other project's run did not wait for the long one"


Begun = tuple[str, str]
"""The ids of an eval and its run."""


def begin(client: OpenAI, items: int) -> Begun:
    source: Any = {"type": "custom", "item_schema": ITEM_SCHEMA, "include_sample_schema": True}
    made = client.evals.create(data_source_config=source, testing_criteria=CRITERIA, name="killed")
    words = content(*(f"word {number}" for number in range(items)))
    return made.id, client.evals.runs.create(made.id, name="run", data_source=SAMPLED | {"source": words}).id


def run_of(client: OpenAI, run: Begun) -> RunRetrieveResponse:
    return client.evals.runs.retrieve(run[1], eval_id=run[0])


def graded(client: OpenAI, run: Begun) -> int:
    counts = run_of(client, run).result_counts
    return counts.passed + counts.failed + counts.errored


def check(client: OpenAI, run: Begun, items: int) -> None:
    """Every item has one result, none is an error, and the counts are those of the results."""
    counts = run_of(client, run).result_counts
    results = list(client.evals.runs.output_items.list(run[1], eval_id=run[0], limit=100))
    assert sorted(each.datasource_item_id for each in results) == list(range(items))
    assert {each.datasource_item["word"] for each in results} == {f"word {number}" for number in range(items)}
    assert (counts.total, counts.errored) == (items, 0)
    assert counts.passed == sum(each.status == "pass" for each in results)
    assert counts.failed == items - counts.passed
