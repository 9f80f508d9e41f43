from pathlib import Path

from sqlalchemy import update
from tensorboardX.proto.event_pb2 import Event

from api.records.trackings import ExportTask
from tests.worker.delivery.trackers.conftest import OpenStudio
from worker.delivery.deliverer import Deliverer


def read_back(folder: Path) -> dict[tuple[str, int], list[float]]:
    """Every value in every event file, by its name and step. The form is TFRecord's: length, crc, data, crc."""
    found: dict[tuple[str, int], list[float]] = {}
    for path in folder.iterdir():
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event, data = data[12 : 12 + length], data[16 + length :]
            parsed = Event.FromString(event)
            for value in parsed.summary.value:
                found.setdefault((value.tag, parsed.step), []).append(value.simple_value)
    return found


def test_event_files_hold_every_step_once(open_studio: OpenStudio, tmp_path: Path) -> None:
    studio = open_studio(tensorboard_dir=tmp_path / "board")
    studio.trained(1, 2)
    recorder = studio.recorder("tensorboard")
    recorder.export_due()
    assert len(read_back(tmp_path / "board" / studio.job_id)) == 2, "before the job has ended, too"
    studio.trained(3)
    studio.ends()
    recorder.export_due()
    assert {key: len(values) for key, values in read_back(tmp_path / "board" / studio.job_id).items()} == {
        ("train_loss", step): 1 for step in (1, 2, 3)
    }


def test_a_worker_that_is_killed_leaves_nothing_twice(open_studio: OpenStudio, tmp_path: Path) -> None:
    studio = open_studio(tensorboard_dir=tmp_path / "board")
    studio.trained(1, 2)
    studio.recorder("tensorboard").export_due()  # and is not heard of again
    studio.trained(3)
    studio.ends()
    studio.recorder("tensorboard").export_due()
    assert {key: len(values) for key, values in read_back(tmp_path / "board" / studio.job_id).items()} == {
        ("train_loss", step): 1 for step in (1, 2, 3)
    }


def test_a_run_that_another_deliverer_had_meanwhile_is_opened_anew(open_studio: OpenStudio, tmp_path: Path) -> None:
    studio = open_studio(tensorboard_dir=tmp_path / "board")
    studio.trained(1, 2)
    slow = studio.recorder("tensorboard")
    slow.export_due()
    with studio.context.database.write() as session:
        session.execute(update(ExportTask).values(lease_until=0.0))
    studio.trained(3)
    studio.deliverer = Deliverer.open(studio.context)
    other = studio.recorder("tensorboard")
    other.export_due()
    other.close()
    studio.trained(4)
    studio.ends()
    slow.export_due()
    assert {key: len(values) for key, values in read_back(tmp_path / "board" / studio.job_id).items()} == {
        ("train_loss", step): 1 for step in (1, 2, 3, 4)
    }


def test_a_disk_that_refuses_is_told_once_and_written_to_when_it_is_back(
    open_studio: OpenStudio, tmp_path: Path
) -> None:
    board = tmp_path / "board"
    board.write_text("a file, where a folder should be")
    studio = open_studio(tensorboard_dir=board)
    studio.trained(1)
    recorder = studio.recorder("tensorboard")
    for _ in range(2):
        recorder.export_due()
        studio.no_waiting()
    assert studio.told() == [
        "Metrics could not be sent to TensorBoard. They are sent when it answers again; the job continues."
    ]
    board.unlink()
    studio.ends()
    recorder.export_due()
    assert read_back(board / studio.job_id).keys() == {("train_loss", 1)}
