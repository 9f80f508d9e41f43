import pytest

from api.records.base_models import BaseModelRow
from api.services.lineage import Origin
from api.services.previews import PreviewQuery, child_request
from api.spec.recipe import Recipe
from api.spec.resolve import resolve_max_length

GRADER = {"type": "string_check", "name": "right", "input": "a", "reference": "a", "operation": "eq"}
ROLLOUTS = {"method": {"type": "ppo", "ppo": {"grader": GRADER, "max_tokens": 30}}}
VIRTUAL = {"technique": {"type": "prefix", "tokens": 20}}


@pytest.mark.parametrize(("body", "room"), [({}, 128), (ROLLOUTS, 98), (VIRTUAL, 108), (ROLLOUTS | VIRTUAL, 78)])
def test_rows_leave_the_window_room_for_answers_and_virtual_tokens(body: dict[str, object], room: int) -> None:
    recipe = Recipe.model_validate({"model": "tiny", "training_file": "f", **body})
    assert resolve_max_length(recipe, longest_row=500, context_window=128) == room
    assert resolve_max_length(recipe, longest_row=50, context_window=128) == 50


def test_a_preview_cuts_where_the_job_will() -> None:
    recipe = Recipe.model_validate({"model": "tiny", "training_file": "f", **VIRTUAL})
    question = PreviewQuery(
        recipe, Origin("tiny", BaseModelRow(name="tiny", facts={"context_window": 128})), (), {}, None
    )
    assert child_request(question, "rows", 1)["context_window"] == 108
