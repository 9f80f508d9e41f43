"""`/metrics`: who may read it, what it says, and that the example alerts and dashboard use metrics that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from api.context import Context
from api.infra.beats import SeenProcess
from api.main import create_app
from api.records import events, job_queue, usage, workers
from api.records.base import db_now
from api.records.jobs import Job
from api.records.usage import Account
from api.records.workers import Worker
from api.services import monitoring
from api.spec.lifecycle import JobStatus, Stage
from tests.api.http.test_errors import error_of
from tests.factories import a_base_model, a_file, a_job, a_model, a_project
from tests.source import ROOT

TOKEN = "token-of-the-operator"
FOLDER = ROOT / "docs" / "monitoring"

Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def scraper(served: Context) -> Iterator[TestClient]:
    settings = served.settings.model_copy(update={"metrics_token": TOKEN})
    app = create_app(type(settings).model_validate(settings.model_dump() | {"metrics_token": TOKEN}))
    yield TestClient(app, headers={"authorization": f"Bearer {TOKEN}"}, raise_server_exceptions=False)
    app.state.context.database.dispose()


def samples(scraper: TestClient) -> Samples:
    answer = scraper.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_without_a_token_of_the_operator_there_are_no_metrics(client: TestClient) -> None:
    answer = client.get("/metrics")
    assert answer.status_code == 404
    assert "ATTUNE_METRICS_TOKEN" in error_of(answer)["message"]


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer wrong", f"Basic {TOKEN}", "Bearer tökén"])
def test_another_token_is_refused(scraper: TestClient, authorization: str) -> None:
    answer = scraper.get("/metrics", headers={b"authorization": authorization.encode()})
    assert answer.status_code == 401
    error_of(answer)


def test_a_projects_key_is_not_enough(scraper: TestClient, client: TestClient) -> None:
    assert scraper.get("/metrics", headers={"authorization": client.headers["authorization"]}).status_code == 401


def a_running_job(served: Context, project: str) -> str:
    job_id = a_job(served.database, project)
    with served.database.write() as session:
        workers.register(session, owner="one", stage=Stage.TRAIN, slots=3)
        assert job_queue.claim(session, Stage.TRAIN, owner="one", lease_s=60, gpus=0) is not None
        for step in (1, 2):
            data = {"step": step, "total_steps": 4, "tokens": 50 * step, "tokens_per_second": 200.0}
            events.add_event(session, job_id, "Step", type="metrics", data=data)
    return job_id


def test_every_number_is_that_of_the_database(scraper: TestClient, served: Context) -> None:
    project = a_project(served.database)
    a_base_model(served.database)
    a_running_job(served, project)
    waiting = a_job(served.database, project)
    a_job(served.database, project, JobStatus.FAILED, error={"code": "diverged", "message": "m", "param": None})
    a_model(served, project, {"a.safetensors": b"12345"})
    file = a_file(served, project, b"123")
    with served.database.write() as session:
        session.execute(update(Job).where(Job.id == waiting).values(created_at=db_now() - 500))
        workers.register(session, owner="two", stage=Stage.PREPARE, held="The disk is full")
        session.add(Worker(owner="old", stage=Stage.TRAIN, slots=9, gpus=0, seen_at=db_now() - 600))
        usage.add(session, Account(project, "k", "tiny"), trained_tokens=7, gpu_seconds=2.5, prompt_tokens=3)
    found = samples(scraper)
    assert found["attune_queue_jobs", ("train",)] == 1
    assert found["attune_queue_jobs", ("scan",)] == 1, file
    assert found["attune_queue_oldest_seconds", ("train",)] == pytest.approx(500, abs=60)
    assert found["attune_queue_oldest_seconds", ("prepare",)] == 0
    assert found["attune_jobs", ("running",)] == found["attune_jobs", ("queued",)] == 1
    assert found["attune_jobs_finished_total", ("succeeded",)] == 1
    assert found["attune_jobs_failed_total", ("diverged",)] == 1
    assert (found["attune_workers", ("train",)], found["attune_workers_paused", ("prepare",)]) == (1, 1)
    assert (found["attune_slots", ("train",)], found["attune_slots_busy", ("train",)]) == (3, 1)
    assert found["attune_worker_beat_age_seconds", ("train", "old")] == pytest.approx(600, abs=60)
    assert found["attune_training_step_seconds", ("tiny",)] == 0.5
    assert found["attune_training_tokens_per_second", ("tiny",)] == 200
    stored = {labels[0]: value for (name, labels), value in found.items() if name == "attune_stored_bytes"}
    assert stored == {"files": 3, "uploads": 0, "models": 5, "checkpoints": 5, "arrays": 0, "base": 0}
    assert found["attune_webhook_deliveries", ("pending",)] == 0
    assert found["attune_trained_tokens_total", ()] == 7
    assert found["attune_device_seconds_total", ("gpu",)] == 2.5
    assert found["attune_sampled_tokens_total", ("prompt",)] == 3


def test_a_sampler_is_counted_once_it_has_reported(scraper: TestClient, served: Context) -> None:
    process = SeenProcess(owner="a:sample-0:1", stage="sample", slots=4, answering=3, beat_at=1.0, age_s=2.0)
    with served.database.read() as session:
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for family in monitoring.workers(session, [process, process.model_copy(update={"age_s": 60.0})])
            for sample in family.samples
        }
    assert (found["attune_workers", "sample"], found["attune_workers", "train"]) == (1, 0)
    assert (found["attune_slots", "sample"], found["attune_slots_busy", "sample"]) == (4, 3)
    assert ("attune_workers", "batch") not in found


def test_scrapes_within_seconds_ask_the_database_once(scraper: TestClient, served: Context) -> None:
    before = samples(scraper)
    a_job(served.database, a_project(served.database))
    assert samples(scraper) == before
    assert isinstance(scraper.app, FastAPI)
    scraper.app.state.monitor = monitoring.Monitor(served)
    assert samples(scraper)["attune_queue_jobs", ("train",)] == 1


def expressions() -> dict[str, str]:
    """The queries of the alerts and of the dashboard's panels, by name."""
    rules = [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
    panels: list[dict[str, Any]] = json.loads((FOLDER / "grafana.json").read_text())["panels"]
    shown = {f"{panel['title']} {each['refId']}": each["expr"] for panel in panels for each in panel["targets"]}
    return {rule["alert"]: rule["expr"] for rule in rules} | shown


def test_alerts_and_panels_name_metrics_and_labels_that_exist(scraper: TestClient, served: Context) -> None:
    a_running_job(served, a_project(served.database))
    a_job(served.database, a_project(served.database), JobStatus.FAILED)
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scraper.get("/metrics").text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    found = expressions()
    assert len(found) > 20
    for name, expression in found.items():
        assert all(expression.count(left) == expression.count(right) for left, right in ("()", "{}", "[]")), name
        metrics = re.findall(r"\b(attune_\w+)(?:\{(\w+)=)?", expression)
        assert metrics or 'up{job="attune"}' in expression, name
        for metric, label in metrics:
            assert metric in labels, f"{name}: {metric}"
            assert not label or label in labels[metric], f"{name}: {metric}{{{label}}}"
    used = set(re.findall(r"attune_\w+", " ".join(found.values())))
    assert set(labels) - used == {"attune_build_info"}, "metrics that nothing shows"


def test_alert_rules_have_the_form_that_prometheus_reads() -> None:
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]:
        assert group["name"]
        for rule in group["rules"]:
            assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}, rule
            assert re.fullmatch(r"[A-Z]\w+", rule["alert"])
            assert re.fullmatch(r"\d+[smhd]", rule.get("for", "1m"))
            assert rule["labels"]["severity"] in {"info", "warning", "critical"}
            assert rule["annotations"]["summary"].endswith(".")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus")
def test_prometheus_accepts_the_alert_rules() -> None:
    command = ["promtool", "check", "rules", str(FOLDER / "alerts.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
