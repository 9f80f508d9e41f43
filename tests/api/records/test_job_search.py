"""A search for a part of a job's name, where a project has many jobs."""

from sqlalchemy import event, insert

from api.records import Database, jobs
from api.records.jobs import Job
from api.spec.job_filters import JobFilters
from tests.factories import a_job, a_project

JOBS = 200


def test_a_search_reads_whole_rows_only_of_the_jobs_that_it_finds(database: Database) -> None:
    """PostgreSQL keeps what is large in a row elsewhere, and plans as it likes."""
    project = a_project(database)
    pattern = a_job(database, project)
    with database.write() as session:
        recipe = session.get_one(Job, pattern).recipe
        shared = {"project_id": project, "status": "succeeded", "recipe": recipe, "base_model": "tiny", "seed": 0}
        fixed = {**shared, "method": "supervised", "training_file": "file-none"}
        rows = [
            {"id": f"ftjob-{n}", "model_id": f"ft:tiny:maps{n}:", "created_at": n // 2, **fixed} for n in range(JOBS)
        ]
        session.execute(insert(Job), rows)
    plans: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def explain(connection, cursor, statement, parameters, *_) -> None:
        if database.is_sqlite and "LIKE" in statement and not statement.startswith("EXPLAIN"):
            lines = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.append("\n".join(str(row[-1]) for row in lines))

    with database.read() as session:
        found = jobs.page(session, project, JobFilters(search="MAPS118:"), after=None, limit=20)
        later = jobs.page(session, project, JobFilters(search="maps", created_after=2), after="ftjob-27", limit=24)
    assert [job.id for job in found.data] == ["ftjob-118"]
    assert sorted(job.id for job in later.data) == sorted(f"ftjob-{n}" for n in range(4, 27))
    assert len(plans) == 3 * database.is_sqlite
    assert all("COVERING INDEX ix_jobs_names" in plan and "TEMP B-TREE" not in plan for plan in plans), plans
