"""A finished job survives a backup and a restore, and its adapter is the one that was published."""

from pathlib import Path

from typer.testing import CliRunner

from api.cli.main import app
from api.context import Context
from api.records import models
from api.services import backups
from api.settings import Settings
from tests.conftest import EMBEDDED
from tests.factories import the_job
from tests.worker.supervisor.conftest import Workshop

SETTINGS = EMBEDDED


def test_the_adapter_of_a_restored_job_verifies(workshop: Workshop, tmp_path: Path) -> None:
    job_id = workshop.submit()
    workshop.work()
    before = workshop.job(job_id)
    contents = backups.back_up(workshop.context, tmp_path / "backup", lambda *_: None)
    assert contents.damaged == []
    settings = Settings(data_dir=tmp_path / "restored")
    backups.restore(tmp_path / "backup", settings, lambda *_: None)
    restored = Context.open(settings)
    job = the_job(restored.database, job_id)
    assert (job.status, job.fine_tuned_model) == ("succeeded", before.fine_tuned_model)
    with restored.database.read() as session:
        model = models.get(session, job.project_id, str(job.fine_tuned_model))
    assert model is not None
    for artifact in model.artifacts:
        path = tmp_path / "adapter" / artifact["name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        restored.storage.read_file(artifact["key"], path)
    verified = CliRunner().invoke(app, ["adapters", "verify", str(tmp_path / "adapter"), "--files-only", "--json"])
    assert verified.exit_code == 0, verified.output
