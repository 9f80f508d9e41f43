"""Conversion of a base model to the layout that Attune trains: `python -m worker.convert SOURCE OUT_DIR`.

SOURCE is a hub id, a folder or a GGUF file. OUT_DIR gets config.json, safetensors weights, tokenizer.json and its
settings, the chat template, the license, and attune.json with facts about the model. All files are moved into place at
once, when they are complete. Exit code 2: the source is refused, and the last line on stderr gives the reason.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import worker.engine.openmp  # noqa: F401  (before torch)
from api.spec.base_model import BaseModelFacts
from worker.bases.files import Refused, copy_model, read_object, require_no_code
from worker.bases.hub import download, is_hub_id
from worker.rows.limits import limit_process

CONFIG_NOISE = ("_name_or_path", "_model_name_or_path", "_commit_hash", "transformers_version")
"""Entries of config.json that are removed: they record where the model was stored, and which version of transformers
wrote the file."""
IMPLEMENTATION = re.compile(r"_?(attn|experts)_implementation(_internal)?|kernel_config|use_kernels")
"""Entries of config.json that choose kernels. They are removed, because a value `owner/repo` would make transformers
download code from a hub."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.convert")
    parser.add_argument("source", help="a hub id (owner/name), a folder, or a .gguf file")
    parser.add_argument("out", type=Path, help="a folder that does not exist yet, or is empty")
    parser.add_argument("--revision", help="branch, tag or commit to download from the hub")
    parser.add_argument(
        "--memory-bytes", type=int, default=0, help="memory limit in bytes; 0: all of the machine's memory"
    )
    options = parser.parse_args(arguments)
    memory = options.memory_bytes or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit_process(memory_bytes=memory, cpu_seconds=None, file_bytes=None)
    try:
        convert(options.source, options.out, options.revision)
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        return 2
    except MemoryError:
        print(f"error: converting {options.source} takes more than {memory >> 20} MiB of memory", file=sys.stderr)
        return 2
    except Exception as error:  # transformers does not check every value, so any exception is possible
        traceback.print_exc()
        reason = " ".join(str(error).split())
        print(f"error: transformers cannot read this model: {type(error).__name__}: {reason}", file=sys.stderr)
        return 2
    return 0


def convert(source: str, out: Path, revision: str | None = None) -> BaseModelFacts:
    """Convert the source to the folder `out`, and return the model's facts. Raise Refused if the source cannot become a
    base model."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"{out} already exists and is not an empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        staged = Path(scratch) / "model"
        staged.mkdir()
        facts = _stage(source, revision, staged, Path(scratch) / "download")
        (staged / "attune.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        staged.replace(out)
    return facts


def _stage(source: str, revision: str | None, staged: Path, scratch: Path) -> BaseModelFacts:
    """Write the model's files into the folder `staged`, check them, and return the model's facts. `scratch`: a new
    folder for a download."""
    path = Path(source).expanduser()
    commit = license_name = dequantised_from = None
    if revision is not None and (path.exists() or not is_hub_id(source)):
        raise Refused("--revision is only for a hub id such as owner/name")
    if path.is_dir():
        license_name = copy_model(path, staged)
    elif path.is_file():
        from worker.bases.gguf import convert_gguf  # noqa: PLC0415 (imports torch, which takes seconds)

        license_name, dequantised_from = convert_gguf(path, staged)
    elif is_hub_id(source):
        commit = download(source, revision, scratch)
        license_name = copy_model(scratch, staged)
        shutil.rmtree(scratch)
    else:
        raise Refused(f"{source} is neither a folder nor a .gguf file nor a hub id such as owner/name")
    require_no_code(staged)
    _clean_config(staged)
    from worker.bases.checked import checked_facts  # noqa: PLC0415 (imports torch, too)

    origin = source if commit else path.name
    return checked_facts(
        staged, source=origin, revision=commit, license_name=license_name, dequantised_from=dequantised_from
    )


def _clean_config(staged: Path) -> None:
    """Remove CONFIG_NOISE and IMPLEMENTATION from config.json. Raise Refused if the weights are quantized."""
    config = read_object(staged / "config.json")
    parts = [config, *(value for value in config.values() if isinstance(value, dict))]  # text_config and the like
    for part in parts:
        if part.get("quantization_config"):
            raise Refused(
                "the weights are quantized (quantization_config in config.json). Convert the unquantized model"
            )
        for name in [*part]:
            if name in CONFIG_NOISE or IMPLEMENTATION.fullmatch(name):
                del part[name]
    (staged / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
