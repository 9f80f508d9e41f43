from api.context import Context
from api.records import models
from tests.factories import a_job, a_model, a_project


def test_a_checkpoint_is_needed_by_other_projects_too_that_may_use_it(context: Context) -> None:
    owner, other = (a_project(context.database, name) for name in ("default", "other"))
    checkpoint = f"{a_model(context, owner)}:ckpt-step-5"
    job_id = a_job(context.database, other, parent_model=checkpoint)
    with context.database.read() as session:
        assert models.needed_by(session, checkpoint) == [job_id]
        assert models.needed_by(session, checkpoint, owner) == []
