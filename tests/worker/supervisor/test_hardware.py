"""The attempt that decides precision, micro-batch and recomputation of a job."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from api.estimate.machine_fields import Machine
from api.spec.artifacts import SavedState
from api.spec.recipe import Recipe
from api.spec.resolve import with_hardware
from tests.api.estimate.test_machine_fields import FACTS, a_recipe
from worker.supervisor import train

SCARCE, ROOMY = (Machine(gpu=False, bfloat16=True, memory_bytes=memory) for memory in (2**29, 2**36))


@pytest.mark.parametrize("state", [None, SavedState(step=3, prefix="states/ftjob-1/1/000003")])
def test_memory_that_was_scarce_for_a_moment_decides_only_if_a_state_depends_on_it(
    state: SavedState | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[Any] = []
    monkeypatch.setattr("worker.supervisor.train.jobs.update_fenced", lambda *_, resolved: stored.append(resolved))
    prepared = a_recipe("lora").model_dump(mode="json")

    def attempt(state: SavedState | None) -> Any:
        return SimpleNamespace(
            job=SimpleNamespace(id="ftjob-1", resolved=stored[-1] if stored else prepared, state=state, estimate=None),
            recipe=Recipe.model_validate({"model": "m", "training_file": "file-x"}),
            base=SimpleNamespace(facts=FACTS),
            claim=SimpleNamespace(fence=1),
            node=SimpleNamespace(context=SimpleNamespace(database=SimpleNamespace(write=nullcontext))),
        )

    first = train._resolve_hardware(attempt(None), SCARCE)
    assert stored == [with_hardware(prepared, first)]
    assert first.gradient_checkpointing is True
    second = train._resolve_hardware(attempt(state), ROOMY)
    assert second.gradient_checkpointing is (state is not None)
    assert stored[-1] == with_hardware(prepared, second)
