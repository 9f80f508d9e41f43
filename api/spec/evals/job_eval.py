"""An eval that runs on a job's model once the job has succeeded."""

from typing import Annotated

from pydantic import Field

from api.spec.evals.run_source import FileId, InputMessages, SamplingParams
from api.spec.fields import JsonObject, StrictModel


class JobEval(StrictModel):
    eval_id: Annotated[str, Field(min_length=1, max_length=64)]
    """The eval, whose testing criteria grade the answers."""
    source: FileId
    """The file with the eval's rows. If it is deleted before the job succeeds, the run fails."""
    input_messages: InputMessages
    """The prompt of each row."""
    sampling_params: SamplingParams = SamplingParams()
    """Options of each completion."""
    checkpoints: bool = False
    """Run the eval also on each checkpoint that the job keeps, so that you can choose the checkpoint with the best
    result."""

    def run_source(self, model: str) -> JsonObject:
        """Return the run's `data_source`: completions of the job's model."""
        given = self.model_dump(mode="json", exclude={"eval_id", "checkpoints"}, exclude_unset=True)
        return {"type": "completions", "model": model, **given}
