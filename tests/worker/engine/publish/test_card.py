"""The model card stays a model card, whatever text other people put into it."""

from itertools import pairwise
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from api.spec.evaluation import Evaluation, SampleAnswer
from api.spec.recipe import Recipe
from api.spec.resolve import Labels, ResolvedRecipe, resolve
from worker.engine.publish.card import TrainingSummary, model_card
from worker.engine.publish.markdown import POINTS, extend
from worker.engine.publish.usage import Usage
from worker.engine.publish.vllm import vllm_section

NASTY = "```\n# A heading\n<script>alert(1)</script> | `x` | {yaml} ---\n\x1b[31m~~~"
HEADINGS = [
    "Fine-tuned with Attune",
    "Load the model",
    "Use it",
    "Serve it with vLLM",
    "Verify the files",
    "Evaluation",
    "Sample 1",
]
HEADINGS += ["Training curves", "Metrics of the last step", "Data", "Recipe"]


def _recipe(method: str = "supervised", technique: dict[str, Any] | None = None, **more: Any) -> ResolvedRecipe:
    body = {"model": "tiny", "training_file": "file-1", "method": {"type": method}, "technique": technique or {}}
    recipe = Recipe.model_validate(body)
    counts: dict[str, Any] = {"train_rows": 10, "validation_rows": 0}
    return resolve(recipe, job_id="ftjob-1", seed=1, max_length=64, **counts).model_copy(update=more)


def test_other_peoples_text_breaks_nothing() -> None:
    sample = SampleAnswer(prompt=NASTY, reference=NASTY, base=NASTY, tuned=NASTY)
    found = Evaluation(
        rows=3, drawn_from="training", base_model=NASTY, base={"loss": 2.0}, tuned={"loss": None}, samples=[sample]
    )
    labels = Labels(problem="single_label", names=(NASTY, "{kind}"))
    recipe = _recipe("classification", {"type": "lora"}, labels=labels)
    card = model_card(
        recipe, "llama", TrainingSummary({NASTY: NASTY}, [[1, 2.0]], [], None, found), Usage(chat=True, pad_token=3)
    )
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header)["base_model"] == "tiny"
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    headings = [tokens[place + 1].content for place, each in enumerate(tokens) if each.type == "heading_open"]
    assert headings == HEADINGS
    assert not [each for each in tokens if each.type == "html_block"]
    inline = [child for each in tokens for child in each.children or []]
    assert not [each for each in inline if each.type == "html_inline"]
    assert "\x1b" not in card


def test_a_base_that_no_hub_could_have_is_not_in_the_header() -> None:
    card = model_card(
        _recipe("supervised", {"type": "lora"}, model="ft:tiny:attune::abcdefgh"),
        "llama",
        TrainingSummary({}, [], [], None, None),
        Usage(),
    )
    header = yaml.safe_load(card.split("---\n")[1])
    assert "base_model" not in header
    assert header["tags"] == ["attune", "lora", "supervised"]
    assert "ft:tiny:attune::abcdefgh" in card


@pytest.mark.parametrize(
    ("technique", "told"),
    [
        ({"type": "lora", "rank": 16}, "--enable-lora --lora-modules tuned=path/to/this/folder"),
        ({"type": "lora", "rank": 20, "rslora": True}, "--max-lora-rank 32 --lora-modules"),
        ({"type": "lora", "rank": 16, "init": "pissa"}, "--max-lora-rank 32 --lora-modules"),
        ({"type": "lora", "rank_pattern": {"q_proj": 2}}, "Do not serve this adapter with vLLM"),
        ({"type": "dora"}, "vLLM refuses DoRA adapters."),
        ({"type": "qlora"}, "quantized to 4 bits during training"),
        ({"type": "prefix"}, "vLLM serves LoRA adapters only"),
        ({"type": "full"}, "vllm serve path/to/this/folder"),
    ],
)
def test_the_card_says_how_and_whether_vllm_serves_it(technique: dict[str, Any], told: str) -> None:
    assert told in vllm_section(_recipe(technique=technique))


def test_a_curve_stays_short_and_even() -> None:
    curve: list[list[float]] = []
    for step in range(1, 1001):
        extend(curve, step, 1 / step)
    steps = [int(step) for step, _ in curve]
    assert POINTS / 2 <= len(steps) <= POINTS
    assert steps[0] == 1
    assert len({after - before for before, after in pairwise(steps)}) == 1
