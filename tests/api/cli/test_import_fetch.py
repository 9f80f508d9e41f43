"""`attune import inventory` and `fetch`, from a stand-in of OpenAI."""

import hashlib
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.cli.errors import CommandError, ExitCode
from api.cli.imports.deadlines import answers_until
from api.cli.imports.folder import held
from api.cli.imports.inventory import take_inventory
from api.cli.imports.source import OPENAI, NotAvailable, Source
from tests.api.cli.conftest import attune
from tests.api.cli.recorded_waits import RecordedWaits
from tests.api.cli.stand_in import (
    CONTENTS,
    DELETED,
    KEY,
    METRICS,
    MODELS,
    StandIn,
    run_to_its_death,
    standing_in,
)
from tests.api.cli.stand_in import (
    lists as stand_in_lists,
)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with standing_in() as state:
        yield state


def fetched(source: StandIn, folder: Path) -> Any:
    result = attune("import", "fetch", "--from", source.base_url, "--output", folder, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_the_inventory_names_what_is_gone(source: StandIn) -> None:
    found = json.loads(attune("import", "inventory", "--from", source.base_url, "--json").stdout)["data"]
    gone = {item["id"]: item["status"] for item in found if not item["available"]}
    assert gone == {DELETED: "deleted", "file-expired": "expired", "file-deleted": "deleted"}
    kinds = [item["kind"] for item in found]
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {"job": 3, "model": 3, "checkpoint": 9, "file": 7, "eval": 1}


def test_the_inventory_goes_on_without_evals(source: StandIn) -> None:
    source.evals_are_dark = True
    shown = attune("import", "inventory", "--from", source.base_url)
    assert shown.exit_code == 0
    assert "shut down" in shown.stderr


@pytest.mark.parametrize(("url", "evals", "model"), [(OPENAI, "2026-11-30", "2027-01-14"), ("http://a/v1", None, None)])
def test_openai_s_dates_hold_for_openai_only(url: str, evals: str | None, model: str | None) -> None:
    source = Source(url, KEY)
    data = stand_in_lists()
    answer = httpx.MockTransport(lambda request: httpx.Response(200, json={"data": data.get(request.url.path, [])}))
    source._http = httpx.Client(transport=answer, base_url=url)
    found = take_inventory(source)
    until = {item["id"]: item["until"] for item in found["data"]}
    assert (until["eval_1"], until[MODELS[0]]) == (evals, model)
    assert bool(found["deadlines"]) == (url == OPENAI)


def test_models_of_the_ending_families_have_a_last_day() -> None:
    assert str(answers_until(MODELS[0])) == "2027-01-14"
    assert str(answers_until("ft:gpt-4.1-nano-2025-04-14:acme::1")) == "2027-01-14"
    assert answers_until("ft:gpt-3.5-turbo-0125:acme::1") is None


def test_everything_arrives_with_its_hash(source: StandIn, tmp_path: Path) -> None:
    source.limit_every = 4
    report = fetched(source, tmp_path)
    found = contents(tmp_path)
    assert (report["jobs"], report["evals"]) == (3, 1)
    assert found["files/file-training/rows.jsonl"] == CONTENTS["file-training"]
    assert found["files/file-validation/valid-ation.jsonl"] == CONTENTS["file-validation"]
    assert found["files/file-results.csv"] == METRICS
    assert "files/file-plain.csv" not in found
    assert len(found["jobs/ftjob-1/events.jsonl"].splitlines()) == 5
    assert len(found["evals/eval_1/evalrun_1.jsonl"].splitlines()) == 5
    assert {each["path"]: each["status"] for each in report["unavailable"]} == {
        "files/file-expired/old.jsonl": 410,
        "files/file-deleted/content": 404,
    }
    listed = {entry["path"]: entry["sha256"] for entry in manifest(tmp_path) if "sha256" in entry}
    unlisted = {"manifest.jsonl", ".lock"}
    assert listed == {name: hashlib.sha256(raw).hexdigest() for name, raw in found.items() if name not in unlisted}
    assert source.other_methods == []


def test_the_key_is_in_no_file_and_no_output(source: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched(source, tmp_path)
    assert not any(KEY.encode() in raw for raw in contents(tmp_path).values())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-and-echoed-by-the-source")
    refused = attune("import", "fetch", "--from", source.base_url, "--output", tmp_path)
    assert refused.exit_code == ExitCode.NOT_AUTHORIZED
    assert "sk-wrong" not in refused.output


@pytest.mark.parametrize("when", ["before", "amid", "after"])
def test_killed_at_random_moments_nothing_is_fetched_twice(source: StandIn, tmp_path: Path, when: str) -> None:
    words = ("import", "fetch", "--from", source.base_url, "--output", tmp_path)
    source.kill_when, kills, moments = when, 0, random.Random(when)
    for _ in range(8):
        source.victim, source.kill_at = 0, source.requests + moments.randint(1, 6)
        kills += run_to_its_death(source, *words)
    source.kill_at = None
    fetched(source, tmp_path)
    assert kills >= 4
    assert sum(source.handed_out.values()) - len(source.handed_out) <= (kills if when == "after" else 0)
    assert contents(tmp_path)["files/file-training/rows.jsonl"] == CONTENTS["file-training"]


def test_a_cut_download_continues_where_it_broke_off(source: StandIn, tmp_path: Path) -> None:
    partial = tmp_path / "files" / "file-training" / "rows.jsonl.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENTS["file-training"][:100])
    fetched(source, tmp_path)
    assert source.ranges == ["bytes=100-"]
    assert contents(tmp_path)["files/file-training/rows.jsonl"] == CONTENTS["file-training"]


def test_a_later_fetch_asks_for_what_is_new_and_keeps_what_is_gone(source: StandIn, tmp_path: Path) -> None:
    fetched(source, tmp_path)
    source.handed_out.clear()
    source.evals_are_dark = True
    source.lists["/v1/fine_tuning/jobs"] = source.lists["/v1/fine_tuning/jobs"][1:]
    report = fetched(source, tmp_path)
    assert (report["jobs"], report["evals"]) == (3, 1)
    assert not any("content" in request or "events" in request for request in source.handed_out)


def test_the_lists_of_a_run_that_was_interrupted_long_ago_are_read_again(source: StandIn, tmp_path: Path) -> None:
    fetched(source, tmp_path)
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write('{"run": 2, "run_state": "started", "at": 1}\n')
    (tmp_path / "jobs.jsonl.part").write_text('{"id": "ftjob-of-last-year"}\n')
    source.handed_out.clear()
    assert fetched(source, tmp_path)["jobs"] == 3
    assert any(request.startswith("GET /v1/fine_tuning/jobs?") for request in source.handed_out)


def test_a_damaged_file_is_fetched_again(source: StandIn, tmp_path: Path) -> None:
    fetched(source, tmp_path)
    damaged = tmp_path / "files" / "file-training" / "rows.jsonl"
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    fetched(source, tmp_path)
    assert damaged.read_bytes() == CONTENTS["file-training"]


def test_a_folder_belongs_to_one_source(source: StandIn, tmp_path: Path) -> None:
    fetched(source, tmp_path)
    with standing_in() as other:
        refused = attune("import", "fetch", "--from", other.base_url, "--output", tmp_path)
    assert refused.exit_code == ExitCode.REFUSED
    assert source.base_url in refused.stderr


def test_an_id_cannot_leave_the_folder(source: StandIn, tmp_path: Path) -> None:
    source.lists["/v1/fine_tuning/jobs"] = [{**source.lists["/v1/fine_tuning/jobs"][0], "id": "../../outside"}]
    result = attune("import", "fetch", "--from", source.base_url, "--output", tmp_path / "inner")
    assert result.exit_code == ExitCode.CORRUPT


def test_a_folder_is_for_one_command_at_a_time(source: StandIn, tmp_path: Path) -> None:
    with held(tmp_path):
        refused = attune("import", "fetch", "--from", source.base_url, "--output", tmp_path)
    assert refused.exit_code == ExitCode.REFUSED
    assert source.requests == 0


def responding(*responses: httpx.Response) -> tuple[Source, list[float]]:
    """Return a source with these responses, and the seconds that it waits between requests."""
    waits, remaining = RecordedWaits(), iter(responses)
    source = Source("http://127.0.0.1/v1", KEY, waits=waits)
    source._http = httpx.Client(transport=httpx.MockTransport(lambda request: next(remaining)), base_url="http://a")
    return source, waits.recorded


def test_rate_limits_are_waited_for_as_long_as_the_source_says() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    headers: list[dict[str, str]] = [{"retry-after": "7"}, {"retry-after-ms": "250"}, {"retry-after": later}, {}]
    source, waits = responding(*(httpx.Response(429, headers=each) for each in headers), httpx.Response(200, json={}))
    assert source.get("/files") == {}
    assert waits[:2] == pytest.approx([7, 0.25], abs=0.1)
    assert 25 < waits[2] <= 30
    assert waits[3] == pytest.approx(4, abs=0.1)


def test_a_shorter_silence_of_one_thread_does_not_end_the_longer_one_of_all() -> None:
    waits = RecordedWaits()
    waits.begin_silence(60)
    waits.begin_silence(0.5)
    waits.await_silence_end()
    assert waits.recorded == [60]


def test_a_silence_that_begins_during_another_is_waited_for() -> None:
    class Extended(RecordedWaits):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.recorded == [5]:
                self.begin_silence(60)

    waits = Extended()
    waits.begin_silence(5)
    waits.await_silence_end()
    assert waits.recorded == [5, 60]


@pytest.mark.parametrize("value", ["inf", "86400"])
def test_a_wait_of_a_day_ends_the_command(value: str) -> None:
    source, waits = responding(httpx.Response(429, headers={"retry-after": value}))
    with pytest.raises(CommandError, match="rate of requests"):
        source.get("/files")
    assert waits == []


def test_an_outage_is_retried_a_few_times() -> None:
    source, waits = responding(*[httpx.Response(503)] * 6)
    with pytest.raises(CommandError, match="503"):
        source.get("/files")
    assert waits == [0.5, 1, 2, 4, 8]


def test_a_key_without_a_scope_is_a_refusal_of_the_object_only() -> None:
    error = {"message": "You have insufficient permissions for this operation. Missing scopes: api.evals.read"}
    source, _ = responding(httpx.Response(401, json={"error": error}))
    with pytest.raises(NotAvailable):
        source.get("/evals")


def test_an_exhausted_quota_is_not_waited_for() -> None:
    error = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
    source, waits = responding(httpx.Response(429, json={"error": error}))
    with pytest.raises(CommandError, match="quota"):
        source.get("/files")
    assert waits == []


def test_without_a_key_nothing_is_asked(source: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert attune("import", "inventory", "--from", source.base_url).exit_code == ExitCode.NOT_AUTHORIZED
    assert source.requests == 0
