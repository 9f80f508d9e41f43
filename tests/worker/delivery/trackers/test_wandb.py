import json
import struct
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made at import

from api.settings import Settings
from api.spec.lifecycle import JobStatus
from tests.worker.delivery.trackers.conftest import OpenStudio
from tests.worker.delivery.trackers.wandb_server import WandbServer
from worker.delivery.trackers import wandb
from worker.delivery.trackers.base import MetricPoint, RunInfo

WANTED: dict[str, Any] = {"integrations": [{"type": "wandb", "wandb": {"project": "tuning", "tags": ["t"]}}]}
KEY = "0123456789abcdef" * 3
BLOCK, FULL, LAST = 32768, 1, 4


def records(path: Path) -> Iterator[Record]:
    """Of an offline run's file: LevelDB's log, blocks of chunks of (crc, length, type), after a header of 7 bytes."""
    data, at, record = path.read_bytes(), 7, b""
    while at < len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (FULL, LAST):
            yield Record.FromString(record)
            record = b""


def offline_folder(settings: Settings, job_id: str) -> Path:
    (folder,) = (settings.wandb_folder / "wandb").glob(f"offline-run-*-{job_id}")
    return folder


def history(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("*.wandb")
    return [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def test_an_offline_run_holds_every_step_once_although_the_worker_was_killed(open_studio: OpenStudio) -> None:
    studio = open_studio(recipe=WANTED, wandb_mode="offline", wandb_api_key=KEY)
    studio.trained(1, 2)
    studio.recorder("wandb").export_due()  # and is not heard of again
    studio.trained(3)
    studio.ends()
    studio.recorder("wandb").export_due()
    folder = offline_folder(studio.settings, studio.job_id)
    assert [(row["_step"], row["train_loss"]) for row in history(folder)] == [(step, 1 / step) for step in (1, 2, 3)]
    (run,) = (record.run for record in records(next(folder.glob("*.wandb"))) if record.HasField("run"))
    assert (run.run_id, run.project, run.display_name, list(run.tags)) == (
        studio.job_id,
        "tuning",
        studio.job_id,
        ["t"],
    )
    assert not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_an_offline_run_keeps_no_points_in_memory(open_studio: OpenStudio) -> None:
    info = RunInfo(job_id="job", number=0, model="m", base_model="b", config={}, options={})
    settings = open_studio(wandb_mode="offline").settings
    run, point = wandb.Tracker(settings).open(info), MetricPoint(1, 0.0, {"train_loss": 1.0})
    kept = weakref.ref(point)
    run.add([point])
    del point
    assert kept() is None
    run.close(None)


def test_a_run_goes_on_where_the_server_has_it_whichever_worker_sends(open_studio: OpenStudio) -> None:
    server = WandbServer()
    studio = open_studio(recipe=WANTED, wandb_api_key=KEY, wandb_base_url=server.url)
    studio.trained(1, 2)
    first = studio.recorder("wandb")
    first.export_due()
    first.close()
    studio.trained(3)
    studio.ends(JobStatus.FAILED)
    studio.recorder("wandb").export_due()
    assert [(row["_step"], row["train_loss"]) for row in server.histories[studio.job_id]] == [
        (step, 1 / step) for step in (1, 2, 3)
    ]
    assert server.ends[studio.job_id] == 1, "how it ended"
    assert studio.told()[0].startswith(f"Metrics are sent to Weights & Biases: {server.url}/team/tuning/runs/")
    assert not any(KEY in message for message in studio.told())


def test_an_outage_at_the_end_is_told_and_made_up_for(open_studio: OpenStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb, "FINISH_TIMEOUT_S", 1)
    server = WandbServer()
    studio = open_studio(recipe=WANTED, wandb_api_key=KEY, wandb_base_url=server.url)
    studio.trained(1)
    recorder = studio.recorder("wandb")
    recorder.export_due()
    server.away = True
    studio.trained(2)
    studio.ends()
    recorder.export_due()
    assert studio.told()[-1].startswith("Metrics could not be sent to Weights & Biases")
    server.away = False
    for _ in range(3):
        studio.no_waiting()
        recorder.export_due()
    assert [row["_step"] for row in server.histories[studio.job_id]] == [1, 2]
    assert server.ends[studio.job_id] == 0


def test_wandbs_process_may_die(open_studio: OpenStudio) -> None:
    server = WandbServer()
    studio = open_studio(recipe=WANTED, wandb_api_key=KEY, wandb_base_url=server.url)
    studio.trained(1)
    recorder = studio.recorder("wandb")
    recorder.export_due()
    for child in psutil.Process().children():
        if child.name() == "wandb-core":
            child.kill()
            child.wait()
    studio.trained(2)
    studio.ends()
    for _ in range(3):  # it notices, starts another, sends
        studio.no_waiting()
        recorder.export_due()
    assert [row["_step"] for row in server.histories[studio.job_id]] == [1, 2]


def test_a_server_that_cannot_be_reached_is_told_once_and_does_not_keep_the_job(open_studio: OpenStudio) -> None:
    address = "http://127.0.0.1:9"  # nobody listens there
    studio = open_studio(recipe=WANTED, wandb_api_key=KEY, wandb_base_url=address)
    studio.trained(1)
    recorder = studio.recorder("wandb")
    for _ in range(2):
        recorder.export_due()
        studio.no_waiting()
    told = ["Metrics could not be sent to Weights & Biases. They are sent when it answers again; the job continues."]
    assert studio.told() == told


def test_a_job_that_names_no_integration_is_not_sent(open_studio: OpenStudio) -> None:
    studio = open_studio(wandb_mode="offline")
    studio.trained(1)
    studio.ends()
    studio.recorder("wandb").export_due()
    assert not studio.settings.wandb_folder.exists()


def _stand_still() -> None:
    time.sleep(1)


def _fail() -> None:
    raise SystemExit(1)


@pytest.mark.parametrize(("teardown", "error"), [(_stand_still, TimeoutError), (_fail, RuntimeError)])
def test_a_process_of_the_library_that_does_not_end_well_ends_no_thread(
    teardown: Callable[[], None], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wandb.teardown", teardown)
    monkeypatch.setattr("psutil.Process.children", lambda _: [])  # the process of other tests must not be killed
    monkeypatch.setattr(wandb, "FINISH_TIMEOUT_S", 0.1)
    with pytest.raises(error):
        wandb._end_process()
