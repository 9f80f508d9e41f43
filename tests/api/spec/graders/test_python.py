import pytest
from pydantic import ValidationError

from tests.api.spec.graders.graders import a_grader

SCRIPT = {"type": "python", "name": "script", "source": "def grade(sample, item): return 1.0"}


def test_a_script_is_refused_wherever_it_stands() -> None:
    for grader in (SCRIPT, {"type": "multi", "graders": {"a": SCRIPT}, "calculate_output": "a"}):
        with pytest.raises(ValidationError, match="no sandbox"):
            a_grader(**grader)
