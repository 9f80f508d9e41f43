"""A client that had no answer sends its request again. If the job was made nevertheless, that one is its answer."""

from sqlalchemy.orm import Session

from api.recipe import Recipe
from api.records import projects, recent
from api.records.jobs import Job


def made_before(session: Session, project_id: str, recipe: Recipe, within_s: float, repeated: bool) -> Job | None:
    """The newest job of the last `within_s` seconds that asked for exactly the same, if the request is a repeated one.

    Jobs of one project are made one after the other: a first request that is still at work is awaited.
    """
    projects.lock(session, project_id)
    if not repeated:
        return None
    asked = recipe.model_dump(mode="json")
    made = recent.jobs_since(session, project_id, recipe.training_file, within_s)
    return next((job for job in made if job.recipe == asked), None)
