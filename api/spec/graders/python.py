from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from api.spec.graders import sandbox
from api.spec.graders.base import Case, GraderBase, GradingError, Name, Verdicts

MAX_SOURCE = 32_768
IMAGE_TAG = "2025-05-08"


class Python(GraderBase):
    """The number that a script's function `grade(sample, item)` returns. The script runs in a sandbox with limits on
    time and memory, without files and network. `sample` has `output_text`, `output_json` (None if the answer is not
    JSON), `output_tools` and `choices`; it is empty for a row without an answer. `item` is the row."""

    summary: ClassVar[str] = "The number that a script's grade(sample, item) returns, run in a sandbox."

    type: Literal["python"]
    name: Name = "python"
    """Optional, as in OpenAI's guides. OpenAI's client requires a name."""
    source: Annotated[str, Field(min_length=1, max_length=MAX_SOURCE)]
    """The script."""
    image_tag: Annotated[str, Field(max_length=64)] | None = None
    """OpenAI's name of a set of libraries. The sandbox has one set, so only the tag of OpenAI's guide is accepted."""

    @field_validator("image_tag")
    @classmethod
    def _has_libraries(cls, tag: str | None) -> str | None:
        if tag not in (None, IMAGE_TAG):
            raise ValueError(
                f"'{tag}' names libraries that the sandbox lacks: omit image_tag, or give {IMAGE_TAG}, the tag of "
                "OpenAI's guide. `graders/validate` reports the modules that a script needs and the sandbox lacks"
            )
        return tag

    @property
    def runs_script(self) -> bool:
        return True

    def faults(self) -> Mapping[str, str]:
        found = sandbox.faults(self.source)
        return {"source": "; ".join(found)} if found else {}

    def reward(self, case: Case, rewards: Mapping[str, float], verdicts: Verdicts) -> float:
        return sandbox.call_grade(self.source, _sample(case), case.item)


def _sample(case: Case) -> Mapping[str, object]:
    if not case.answered:
        return {}
    try:
        parsed = case.json
    except GradingError:
        parsed = None
    return {
        "output_text": case.text,
        "output_json": parsed,
        "output_tools": [*case.tools],
        "choices": case.choices,
    }
