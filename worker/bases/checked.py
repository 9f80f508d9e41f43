"""Checks of a base model's files with the libraries that will load them."""

from pathlib import Path

from api.spec.base_model import BaseModelFacts
from worker.bases.code import leave_out_code
from worker.bases.completeness import require_complete
from worker.bases.facts import facts_of
from worker.bases.tokenizer import normalize_tokenizer
from worker.bases.weights import check_weights


def checked_facts(
    staged: Path, *, source: str, revision: str | None, license_name: str | None, dequantised_from: str | None
) -> BaseModelFacts:
    """Normalize the tokenizer's files, and return the model's facts. Raise Refused if the model cannot be trained."""
    leave_out_code(staged)
    weights = check_weights(staged)
    normalize_tokenizer(staged)
    facts = facts_of(
        staged,
        weights,
        source=source,
        revision=revision,
        license_name=license_name,
        dequantised_from=dequantised_from,
    )
    require_complete(staged, facts["kind"])
    return facts
