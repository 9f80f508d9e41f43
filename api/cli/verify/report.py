"""All that `attune adapters verify` finds, as one document, and as lines for people."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from api.cli.client import Document
from api.cli.errors import CommandError, ExitCode
from api.cli.verify.base import find_base
from api.cli.verify.files import check_files, check_tensors, open_artifact, other_base, read_manifest
from api.spec.manifest import LOGPROBS, Manifest

SHOWN_LETTERS = 300


def verification(path: Path, *, base: str | None, data_dir: Path | None, files_only: bool) -> Document:
    """Of a folder, or a job's tar. Raises CommandError where what was asked for cannot be looked at."""
    with open_artifact(path) as folder:
        return _verification(folder, base=base, data_dir=data_dir, files_only=files_only)


def _verification(folder: Path, *, base: str | None, data_dir: Path | None, files_only: bool) -> Document:
    manifest = read_manifest(folder)
    base_folder = None if base is None else find_base(base, manifest.origin.base, data_dir)
    problems, notes = check_files(folder, manifest)
    damaged, tensors, values = check_tensors(folder, manifest)
    problems += damaged
    differences = None if base_folder is None else other_base(manifest, base_folder)
    loads = base_folder is not None if manifest.kind == "adapter" else manifest.kind == "model" and not files_only
    comparison = None
    if problems:
        notes.append("nothing was loaded, since the files are damaged")
    elif loads and (folder / LOGPROBS).exists():
        comparison = _compare(folder, manifest, base_folder, asked=base is not None, notes=notes, problems=problems)
    elif loads:
        notes.append(f"there is no {LOGPROBS} to compare with")
    if comparison is not None and not comparison["agrees"]:
        problems.append("loaded, it does not say what the trainer's model said")
    elif comparison is None and differences:
        problems.append("the base model is not the one that was trained on, and nothing could be compared")
    return {
        "object": "adapter.verification",
        "model": manifest.origin.model,
        "job": manifest.job,
        "step": manifest.step,
        "kind": manifest.kind,
        "verified": not problems,
        "problems": problems,
        "notes": notes,
        "files": len(manifest.files),
        "tensors": tensors,
        "values": values,
        "trained_on": manifest.origin.base.model_dump(mode="json"),
        "base": None if base_folder is None else {"path": str(base_folder), "differences": differences},
        "comparison": comparison,
    }


def _compare(
    folder: Path, manifest: Manifest, base: Path | None, *, asked: bool, notes: list[str], problems: list[str]
) -> dict[str, Any] | None:
    """Loading takes torch, so it happens in a process of its own."""
    if importlib.util.find_spec("torch") is None:
        why = "torch is not installed here, so that nothing was loaded and compared (pip install 'attune[worker]')"
        if asked:
            raise CommandError(ExitCode.REFUSED, f"{why}. Leave --base out to look at the files alone.")
        notes.append(why)
        return None
    command = [sys.executable, "-m", "worker.verify_adapter", str(folder)]
    if base is not None and manifest.kind == "adapter":
        command.append(str(base))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if "rows" not in found:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        problems.append(f"it could not be loaded: {found.get('refused', last)[:SHOWN_LETTERS]}")
        return None
    # False for NaN, too.
    found["agrees"] = all(found[name] <= allowed for name, allowed in found["tolerance"].items())
    return found


def verification_fields(found: Document) -> dict[str, object]:
    trained = found["trained_on"]
    origin = "" if trained["source"] is None else f", from {trained['source']}"
    fields: dict[str, object] = {
        "model": f"{found['model'] or 'unnamed'}, step {found['step']}",
        "job": found["job"],
        "base model": f"{trained['name']}{origin}{'@' + trained['revision'] if trained['revision'] else ''}",
        "files": f"{found['files']} listed",
        "weights": f"{found['tensors']:,} tensors, {found['values']:,} values",
    }
    if found["base"] is not None:
        differences = found["base"]["differences"]
        known = "the one that was trained on"
        fields["this base"] = known if not differences else f"NOT {known}: {'; '.join(differences)}"
    if (compared := found["comparison"]) is not None:
        allowed = ", ".join(f"{name} {value:g}" for name, value in compared["tolerance"].items())
        fields["log-probs"] = (
            f"differ by {compared['greatest']:.1e} at most, {compared['mean']:.1e} on average, over {compared['rows']} "
            f"rows on {compared['device']} (allowed: {allowed})"
        )
    for part in ("notes", "problems"):
        fields |= {f"{part[:-1]} {place}": text for place, text in enumerate(found[part], 1)}
    return {**fields, "verified": "yes" if found["verified"] else "NO"}
