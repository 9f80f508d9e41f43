"""Provenance of a published folder, for its manifest: base model, data, recipe, code and libraries."""

from functools import cache
from pathlib import Path

from api.spec.file_hash import file_sha256
from api.spec.manifest import ORIGIN, BaseEntry, Origin, Provenance, recipe_hash
from api.spec.resolve import ResolvedRecipe
from worker.engine.model.facts import facts_of_base
from worker.engine.publish.versions import libraries, our_code


def provenance(run: Path, recipe: ResolvedRecipe, step: int) -> Provenance:
    """Return the provenance of the run folder's model at `step`."""
    document = recipe.model_dump(mode="json")
    return Provenance(
        kind="model" if recipe.technique.whole_model else "adapter",
        job=recipe.job_id,
        step=step,
        origin=origin_of(run, recipe.model),
        recipe=document,
        recipe_sha256=recipe_hash(document),
        code=our_code(),
        libraries=libraries(),
    )


@cache
def origin_of(run: Path, base_name: str) -> Origin:
    """Return the origin that the supervisor wrote into the run folder. If there is none, because the trainer was run by
    hand, return an origin with the base model alone."""
    path = run / ORIGIN
    if path.exists():
        return Origin.model_validate_json(path.read_bytes())
    base = run / "base"
    files = [*base.glob("*.safetensors"), base / "config.json"]
    facts = facts_of_base(base)
    hashes = {file.name: file_sha256(file) for file in sorted(files)}
    origin = BaseEntry(name=base_name, source=facts.get("source"), revision=facts.get("revision"), files=hashes)
    return Origin(base=origin)
