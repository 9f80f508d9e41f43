"""Parts of the memory, by hand."""

from typing import Any, cast

import pytest

from api.estimate import memory
from api.estimate.activations import ExecutionPlan
from api.estimate.machine_fields import Machine, predict, too_large
from api.estimate.memory import MemoryParts, largest_batch, peak_memory
from api.estimate.sampling import key_value_bytes
from api.estimate.work import Base, Workload
from api.spec.base_model import BaseModelFacts
from api.spec.recipe import Recipe
from api.spec.resolve import ResolvedRecipe, resolve

FACTS = cast(
    BaseModelFacts,
    {
        "parameters": 135_000_000,
        "hidden_size": 576,
        "layers": 30,
        "vocab_size": 49152,
        "model_type": "llama",
        "heads": 9,
        "dtype": "float32",
    },
)
ROWS = Workload(rows=100, width=1, tokens=10_000, supervised=5_000, lengths=(50, 100, 200))


def a_recipe(technique: str = "full", **training: Any) -> ResolvedRecipe:
    body = {"model": "m", "training_file": "file-x", "technique": {"type": technique}, "training": training}
    return resolve(Recipe.model_validate(body), job_id="j", seed=1, max_length=200, train_rows=100, validation_rows=0)


def parts(technique: str = "full", **training: Any) -> MemoryParts:
    machine = Machine(gpu=False, bfloat16=False, memory_bytes=64 << 30)
    return predict(a_recipe(technique, **training), FACTS, ROWS, None, machine).memory


def test_full_training_in_float32_keeps_four_numbers_for_each_weight() -> None:
    found = parts(precision="float32")
    assert (found.weights, found.gradients, found.optimizer) == (540_000_000, 540_000_000, 1_080_000_000)


def test_full_training_in_bfloat16_keeps_a_float32_copy() -> None:
    found = parts(precision="bfloat16")
    # … and the base as it was read, in float32, until the allocator gives it back.
    assert found.weights == (6 + 4) * 135_000_000


def test_pairs_keep_the_keys_of_a_shared_prompt_for_each_answer() -> None:
    recipe = a_recipe("lora").model_copy(update={"precision": "bfloat16", "gradient_checkpointing": False})
    plan, base = ExecutionPlan(gpu=True, value_bytes=2, budget=4096, recompute=False), Base.of(FACTS)
    # Of 10,000 tokens, 2 x 4,000 are prompts: 6,000 are computed, 4,000 of them with two further copies.
    shared, alone = (Workload(100, 2, 10_000, supervised, (50,)) for supervised in (2_000, 10_000))
    more = (
        peak_memory(recipe, base, FACTS, 0, shared, plan).activations
        - peak_memory(recipe, base, FACTS, 0, alone, plan).activations
    )
    tokens = largest_batch(recipe, shared, plan.budget)
    assert more == pytest.approx(2 * 4 / 6 * tokens * key_value_bytes(FACTS, base, plan), abs=1)


def test_an_adapter_keeps_little_beside_the_frozen_weights() -> None:
    found = parts("lora", precision="float32")
    assert found.weights < 560_000_000
    assert found.optimizer < 60_000_000


def test_four_bits_take_a_fraction_of_the_weights() -> None:
    quantised, plain = (parts(name, precision="bfloat16").weights for name in ("qlora", "lora"))
    assert quantised < plain - 100_000_000


def test_a_reward_model_is_another_base() -> None:
    facts = {**FACTS, "dtype": "bfloat16"}
    machine = Machine(gpu=True, bfloat16=True, memory_bytes=64 << 30)

    def weights(**options: Any) -> int:
        method = {"type": "ppo", "ppo": options}
        body = {"model": "m", "training_file": "file-x", "technique": {"type": "lora"}, "method": method}
        recipe = resolve(
            Recipe.model_validate(body), job_id="j", seed=1, max_length=200, train_rows=100, validation_rows=0
        )
        return predict(recipe, cast(BaseModelFacts, facts), ROWS, None, machine).memory.weights

    rule = {"type": "string_check", "name": "g", "operation": "eq", "input": "a", "reference": "a"}
    assert weights(reward_model="ft:m") - weights(grader=rule) == 2 * FACTS["parameters"]


def test_the_reader_of_published_files_is_counted_beside_the_trainer() -> None:
    """A job that trained within its memory was killed when a second process read its files."""
    short = {"precision": "float32", "micro_batch_tokens": 8, "gradient_checkpointing": True}
    rows = Workload(rows=100, width=1, tokens=1_000, supervised=500, lengths=(10,))
    machine = Machine(gpu=False, bfloat16=False, memory_bytes=64 << 30)
    recipe = a_recipe("lora", **short)
    found = predict(recipe, FACTS, rows, None, machine)
    adapter = 4 * found.trained_parameters
    both = 2 * memory.RUNTIME_CPU + 540_000_000 + adapter + 3 * 4 * 128 * 49152
    assert found.memory.total == both
    assert found.memory.publishing > 0
    assert parts("full").publishing == 0, "training with AdamW takes more"
    less = predict(recipe, FACTS, rows, None, Machine(False, False, both - 1))
    assert (less.fits, predict(recipe, FACTS, rows, None, Machine(False, False, both)).fits) == (False, True)


def test_merged_weights_are_read_whole_where_four_bits_were_trained() -> None:
    recipe = a_recipe("qlora", precision="bfloat16", micro_batch_tokens=8, gradient_checkpointing=True)
    machine = Machine(gpu=True, bfloat16=True, memory_bytes=64 << 30)
    alone, merged = (
        predict(recipe.model_copy(update={"merged": each}), FACTS, ROWS, None, machine).memory for each in (False, True)
    )
    assert merged.training == alone.training
    logits = 3 * 4 * 128 * 49152
    assert merged.total == max(merged.training, 2 * memory.RUNTIME_GPU + 2 * 135_000_000 + logits) > alone.total


def test_recomputation_takes_less() -> None:
    kept, recomputed = (parts("lora", gradient_checkpointing=again).activations for again in (False, True))
    assert recomputed < kept / 5


def test_a_gelu_of_many_operations_keeps_four_more_of_the_widest_values() -> None:
    machine = Machine(gpu=True, bfloat16=True, memory_bytes=64 << 30)
    recipe = a_recipe("lora", gradient_checkpointing=False)
    fused, composed = (
        predict(recipe, FACTS | {"model_type": family}, ROWS, None, machine) for family in ("llama", "gpt2")
    )
    base, tokens = Base.of(FACTS), memory.largest_batch(recipe, ROWS, fused.micro_batch_tokens)
    assert composed.memory.activations - fused.memory.activations == pytest.approx(
        4 * base.inner * base.layers * 2 * tokens, abs=1
    )


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_long_rows_of_families_that_are_padded_take_their_square(fused: bool, recompute: bool) -> None:
    facts: BaseModelFacts = FACTS | {"model_type": "bloom", "keeps_scores": not fused}
    recipe = a_recipe("lora", precision="bfloat16", micro_batch_tokens=8, gradient_checkpointing=recompute)
    machine = Machine(gpu=True, bfloat16=True, memory_bytes=64 << 30)
    shorter, longer, packed = (
        predict(recipe, known, ROWS.__class__(100, 1, 100 * length, 100, (length,)), None, machine).memory.activations
        for known, length in ((facts, 4000), (facts, 8000), (FACTS, 8000))
    )
    each = 2 if fused else 2 + 9 * (4 + 2)
    layers = 1 if recompute else 30
    assert longer - packed == pytest.approx(each * layers * 8000**2, rel=1e-6)
    assert longer - 2 * shorter == pytest.approx(2 * each * layers * 4000**2, rel=1e-6)


def test_a_long_context_without_fused_attention_is_refused_with_the_number() -> None:
    facts: BaseModelFacts = FACTS | {"model_type": "bloom", "keeps_scores": True}
    rows = Workload(100, 1, 3_276_800, 100, (32_768,))
    found = predict(a_recipe("lora"), facts, rows, None, Machine(gpu=True, bfloat16=True, memory_bytes=40 << 30))
    assert found.fits is False
    assert "GiB" in too_large(found, 40 << 30)
    packed = predict(a_recipe("lora"), FACTS, rows, None, Machine(gpu=True, bfloat16=True, memory_bytes=40 << 30))
    assert packed.fits is True
