"""What a pipeline's stages leave out, and what is filled in for it."""

from typing import Any

import pytest
from pydantic import ValidationError

from api.spec.pipeline import Pipeline, references, resolved_references


def linked(*stages: dict[str, Any], **body: Any) -> Pipeline:
    named = [{"name": f"s{index}", "training_file": "file-1"} | stage for index, stage in enumerate(stages)]
    return Pipeline.model_validate({"model": "tiny", "stages": named} | body)


REWARD, PPO, LABELS = ({"method": {"type": name}} for name in ("reward", "ppo", "classification"))


def test_each_stage_goes_on_from_the_nearest_earlier_one_that_gives_tokens() -> None:
    stages = linked({}, REWARD, LABELS, PPO, {"model": "other"}, {}).stages
    assert [stage.model for stage in stages] == ["tiny", "stage:s0", "stage:s0", "stage:s0", "other", "stage:s4"]


def test_the_nearest_earlier_reward_stage_judges_where_none_is_named() -> None:
    explicit = {"method": {"type": "ppo", "ppo": {"reward_model": "stage:s0", "num_ppo_epochs": 2}}}
    stages = linked(REWARD, REWARD, PPO, explicit).stages
    judges = [getattr(stage.method.options, "reward_model", None) for stage in stages]
    assert judges == [None, None, "stage:s1", "stage:s0"]


def test_a_stage_that_nobody_can_judge_is_refused() -> None:
    with pytest.raises(ValidationError, match="reward_model"):
        linked({}, PPO)


def test_what_all_stages_share_is_said_once_and_a_stage_may_differ() -> None:
    body = {"training": {"max_steps": 5, "max_length": 64}, "suffix": "s", "metadata": {"a": "b"}}
    first, second = linked({}, {"training": {"max_steps": 9}, "suffix": "own", "metadata": {}}, **body).stages
    assert (first.training.max_steps, first.suffix, first.metadata) == (5, "s-s0", {"a": "b"})
    assert (second.training.max_steps, second.training.max_length, second.suffix) == (9, 64, "own")
    assert second.metadata == {}


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"stages": []}, ("stages",)),
        ({"stages": [7]}, ("stages", 0)),
        ({"stages": [{"name": "a"}]}, ("stages", 0, "training_file")),
        ({"stages": [{"name": "a/b", "training_file": "f"}]}, ("stages", 0, "name")),
        ({"stages": [{"name": "a", "training_file": "f", "method": 3}]}, ("stages", 0, "method")),
        ({"stages": [{"name": "a", "training_file": "f", "technique": {"type": "no"}}]}, ("stages", 0, "technique")),
        ({"training": {"max_step": 1}, "stages": [{"name": "a", "training_file": "f"}]}, ("training", "max_step")),
        ({"stages": {"a": 1}}, ("stages",)),
    ],
)
def test_what_is_wrong_is_named_by_its_place(body: dict[str, Any], place: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        Pipeline.model_validate({"model": "tiny"} | body)
    assert caught.value.errors()[0]["loc"][: len(place)] == place


def test_references_are_found_and_replaced_wherever_a_model_is_named() -> None:
    grader = {"type": "multi", "graders": {"s": {"type": "score_model", "model": "stage:b", "name": "model: stage:x"}}}
    metadata = {"model": "stage:of-life", "reward_model": "stage:z"}
    recipe = {"model": "stage:a", "method": {"ppo": {"grader": grader, "reward_model": None}}, "metadata": metadata}
    assert references(recipe) == {"a", "b"}
    replaced = resolved_references(recipe, {"a": "ft:a", "b": "ft:b"})
    assert references(replaced) == set()
    judge = {"type": "score_model", "model": "ft:b", "name": "model: stage:x"}
    method = {"ppo": {"grader": {"type": "multi", "graders": {"s": judge}}, "reward_model": None}}
    assert replaced == {"model": "ft:a", "method": method, "metadata": metadata}
