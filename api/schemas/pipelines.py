"""Pipelines and their stages."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel

from api.schemas.jobs import JobError
from api.schemas.stored import StoredJson, stored
from api.services.pipelines import PipelineView


class StageObject(BaseModel):
    name: str
    job_id: str
    status: str
    method: str
    technique: str
    model: str
    """The model that the stage begins from: a base model, a fine-tuned model, or the model of an earlier stage."""
    needs: list[str]
    """The names of the stages that must end first."""
    fine_tuned_model: str | None
    error: JobError | None
    progress: Annotated[StoredJson, stored("Progress")] | None


class PipelineObject(BaseModel):
    id: str
    object: Literal["fine_tuning.pipeline"] = "fine_tuning.pipeline"
    created_at: int
    status: str
    model: str
    suffix: str | None
    metadata: dict[str, str] | None
    stages: list[StageObject]

    @classmethod
    def of(cls, view: PipelineView) -> Self:
        names = {job.id: str(job.pipeline_stage) for job in view.jobs}
        return cls(
            id=view.pipeline.id,
            created_at=int(view.pipeline.created_at),
            status=view.status,
            model=view.pipeline.model,
            suffix=view.pipeline.suffix,
            metadata=view.pipeline.pairs,
            stages=[
                StageObject(
                    name=names[job.id],
                    job_id=job.id,
                    status=job.status,
                    method=job.recipe["method"]["type"],
                    technique=job.recipe["technique"]["type"],
                    model=job.recipe["model"],
                    needs=[names[need.needs_job_id] for need in view.needs if need.job_id == job.id],
                    fine_tuned_model=job.fine_tuned_model,
                    error=JobError(**job.error) if job.error else None,
                    progress=job.progress or None,
                )
                for job in view.jobs
            ],
        )


class PipelineList(BaseModel):
    object: Literal["list"] = "list"
    data: list[PipelineObject]
    has_more: bool
