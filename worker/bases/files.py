"""The files of a base model's folder: which are copied, and which cause a refusal. Nothing in the folder is ever
executed."""

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

WANTED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "LICENSE*",
    "NOTICE*",
)
"""Patterns of the files that a converted model may consist of."""
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
MAX_JSON_BYTES = 256 * 1024**2
"""Maximum size of a JSON file in bytes: several times the largest tokenizer.json and safetensors index in use."""
MAX_CARD_BYTES = 1024**2
NEEDS_CODE = "the model needs code of its own to run, which is never executed"
LICENSE_LINE = re.compile(r"\A---\n(?:.*\n)*?license:[ \t]*([\w.+-]+)[ \t]*\n")


class Refused(Exception):
    """The source cannot become a base model. The message gives the reason and what to do."""


def copy_model(folder: Path, out: Path) -> str | None:
    """Copy the files of a model that match WANTED. Return the license that its model card names, if any. Raises Refused
    if the files cannot become a base model."""
    require_safetensors([file.name for file in folder.iterdir()])
    if not (folder / "config.json").exists():
        adapter = (folder / "adapter_config.json").exists()
        raise Refused("the source is an adapter, not a base model" if adapter else "the source has no config.json")
    for pattern in WANTED:
        for file in sorted(file for file in folder.glob(pattern) if not file.is_dir()):  # such as LICENSES/
            _copy(folder, file, out / file.relative_to(folder))
    require_no_code(out)
    return card_license(folder)


def require_safetensors(names: list[str]) -> None:
    """Raise Refused if the weights are not safetensors. Pickled weights can run code when they are opened."""
    if any(re.fullmatch(r"model(-[\w-]+)?\.safetensors", name) for name in names):
        return
    if pickles := sorted(name for name in names if Path(name).suffix in PICKLES):
        raise Refused(
            f"the weights are pickled ({pickles[0]}). Pickles are never opened, because they can run code: "
            "convert the weights to safetensors first"
        )
    raise Refused("the source has no model.safetensors")


def require_no_code(folder: Path) -> None:
    """Raise Refused if the tokenizer needs Python code that comes with it (`auto_map`)."""
    if (folder / "tokenizer_config.json").exists() and "auto_map" in read_object(folder / "tokenizer_config.json"):
        raise Refused(f"tokenizer_config.json has an auto_map: {NEEDS_CODE}")


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raise Refused if the file is missing, too large, or holds no object."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise Refused(f"{path.name} is larger than {MAX_JSON_BYTES >> 20} MiB")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"the source has no {path.name}") from None
    except (ValueError, RecursionError):
        raise Refused(f"{path.name} is not JSON") from None
    if not isinstance(value, dict):
        raise Refused(f"{path.name} holds no JSON object")
    return value


def card_license(folder: Path) -> str | None:
    """Return the license that the model card names, or None."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with _opened_inside(folder, card) as file:
        text = file.read(MAX_CARD_BYTES).decode(errors="replace")
    found = LICENSE_LINE.match(text)
    return found.group(1) if found else None


def _copy(folder: Path, file: Path, target: Path) -> None:
    if not SAFE_NAME.fullmatch(file.name):
        raise Refused(
            f"the file name {file.name!r} is not accepted: use at most 200 letters, digits, '.', '_' and '-', "
            "beginning with a letter or digit"
        )
    target.parent.mkdir(exist_ok=True)
    with _opened_inside(folder, file) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy, 1024**2)


@contextmanager
def _opened_inside(folder: Path, file: Path) -> Iterator[BinaryIO]:
    """Open a regular file of the folder. A link is followed only into the folders that `_roots` returns. Raises Refused
    for other links, and for files that are not regular or cannot be opened."""
    real = file.resolve()
    if not any(real.is_relative_to(root) for root in _roots(folder)):
        raise Refused(f"{file.name} is a link that leads out of the folder")
    try:
        # O_NONBLOCK: opening a FIFO would wait for a writer.
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Refused(f"{file.name} cannot be opened: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused(f"{file.name} is not a regular file")
        yield opened


def _roots(folder: Path) -> list[Path]:
    """Return the folders that links may lead into: the folder itself and, for a snapshot in the hub's cache, the
    `blobs` folder beside `snapshots`, whose files its links point to. `blobs` is left out if it is itself a link."""
    real = folder.resolve()
    if real.parent.name != "snapshots":
        return [real]
    blobs = real.parent.parent / "blobs"
    return [real, blobs] if blobs.resolve() == blobs else [real]
