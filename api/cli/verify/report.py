"""The findings of `attune adapters verify`: as one document for programs, and as fields for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from api.cli.errors import CommandError, ExitCode
from api.cli.verify.base import find_base
from api.cli.verify.comparison import Comparison, NotComparable, can_load_models, compare
from api.cli.verify.files import base_differences, check_files, open_artifact, read_manifest
from api.cli.verify.signature import CheckedSignature, check_signature, read_keys
from api.cli.verify.tensors import check_tensors
from api.spec.manifest import LOGPROBS, BaseEntry, Manifest


class VerifiedBase(BaseModel):
    path: str
    differences: list[str]
    """How the weights differ from those of the base model that the verified model was trained from."""


class Verification(BaseModel):
    object: Literal["adapter.verification"] = "adapter.verification"
    model: str | None
    job: str
    step: int
    kind: Literal["adapter", "model", "gguf"]
    verified: bool
    problems: list[str]
    notes: list[str]
    files: int
    """Number of files that the manifest lists."""
    tensors: int
    values: int
    """Number of weights in all tensors."""
    trained_on: BaseEntry
    base: VerifiedBase | None
    """The base model on this machine, if one was given."""
    comparison: Comparison | None
    signature: CheckedSignature | None
    """The manifest's signature; null if it has none, or a damaged one."""


def verify_files(
    path: Path, *, base: str | None, data_dir: Path | None, files_only: bool, public_key: str | None
) -> Verification:
    """Verify a folder, or a job's tar. Raises CommandError if nothing can be verified."""
    keys = None if public_key is None else read_keys(public_key)
    with open_artifact(path) as folder:
        signed = check_signature(folder, keys, public_key)
        return _verify_folder(folder, signed, base=base, data_dir=data_dir, files_only=files_only)


def _verify_folder(
    folder: Path,
    signed: tuple[CheckedSignature | None, list[str], list[str]],
    *,
    base: str | None,
    data_dir: Path | None,
    files_only: bool,
) -> Verification:
    manifest = read_manifest(folder)
    base_folder = None if base is None else find_base(base, manifest.origin.base, data_dir)
    signature, problems, notes = signed
    file_problems, file_notes = check_files(folder, manifest)
    problems, notes = problems + file_problems, notes + file_notes
    tensor_problems, tensors, values = check_tensors(folder, manifest)
    problems += tensor_problems
    differences = [] if base_folder is None else base_differences(manifest, base_folder)
    comparison = None
    if problems:
        notes.append("nothing was loaded, since the files are damaged")
    elif base_folder is not None if manifest.kind == "adapter" else manifest.kind == "model" and not files_only:
        comparison = _compare(folder, manifest, base_folder, required=base is not None, notes=notes, problems=problems)
    if comparison is not None and not comparison.agrees:
        problems.append("the loaded model's outputs differ from the recorded ones by more than the tolerance")
    elif comparison is None and differences:
        problems.append(
            "the weights of the base model given are not those that this model was trained from, and its outputs could "
            "not be compared with the recorded ones"
        )
    return Verification(
        model=manifest.origin.model,
        job=manifest.job,
        step=manifest.step,
        kind=manifest.kind,
        verified=not problems,
        problems=problems,
        notes=notes,
        files=len(manifest.files),
        tensors=tensors,
        values=values,
        trained_on=manifest.origin.base,
        base=None if base_folder is None else VerifiedBase(path=str(base_folder), differences=differences),
        comparison=comparison,
        signature=signature,
    )


def _compare(
    folder: Path, manifest: Manifest, base: Path | None, *, required: bool, notes: list[str], problems: list[str]
) -> Comparison | None:
    """Return the comparison, or None with the reason added to the notes or problems.

    Raises CommandError if a comparison is `required` and torch is missing.
    """
    if not (folder / LOGPROBS).exists():
        notes.append(f"there is no {LOGPROBS} to compare with")
        return None
    if not can_load_models():
        reason = (
            "torch is not installed here, so nothing was loaded and compared "
            "(pip install '.[worker]' in the folder of Attune's source)"
        )
        if required:
            raise CommandError(ExitCode.REFUSED, f"{reason}. Omit --base to check the files alone.")
        notes.append(reason)
        return None
    try:
        return compare(folder, manifest, base)
    except NotComparable as error:
        problems.append(f"the model could not be loaded: {error}")
        return None


def verification_fields(verification: Verification) -> dict[str, object]:
    """Return the fields that the command prints for people."""
    trained = verification.trained_on
    origin = "" if trained.source is None else f", from {trained.source}"
    fields: dict[str, object] = {
        "model": f"{verification.model or 'unnamed'}, step {verification.step}",
        "job": verification.job,
        "base model": f"{trained.name}{origin}{'@' + trained.revision if trained.revision else ''}",
        "files": f"{verification.files} listed",
        "weights": f"{verification.tensors:,} tensors, {verification.values:,} values",
    }
    if (signature := verification.signature) is not None:
        fields["signature"] = f"{signature.status}, by key {signature.key}"
    if verification.base is not None:
        same, differences = "the one that was trained on", verification.base.differences
        fields["this base"] = same if not differences else f"NOT {same}: {'; '.join(differences)}"
    if (compared := verification.comparison) is not None:
        allowed = ", ".join(f"{name} {value:g}" for name, value in compared.tolerance.items())
        fields["log-probs"] = (
            f"differ by {compared.greatest:.1e} at most, {compared.mean:.1e} on average, over {compared.rows} "
            f"rows on {compared.device} (allowed: {allowed})"
        )
    fields |= _numbered("note", verification.notes) | _numbered("problem", verification.problems)
    return {**fields, "verified": "yes" if verification.verified else "NO"}


def _numbered(name: str, texts: Sequence[str]) -> dict[str, object]:
    return {f"{name} {number}": text for number, text in enumerate(texts, 1)}
