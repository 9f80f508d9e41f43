"""The special tokens of a base model, from its tokenizer's settings."""

import json
from pathlib import Path
from typing import Any

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def special_tokens(base: Path) -> dict[str, str]:
    """Return the text of each special token by its name. If tokenizer_config.json has no `added_tokens_decoder`, as in
    the folders of older models, special_tokens_map.json takes precedence. Otherwise it is not read."""
    config = read_json(base / "tokenizer_config.json")
    older = {} if "added_tokens_decoder" in config else read_json(base / "special_tokens_map.json")
    tokens = {}
    for name in NAMES:
        value = older.get(name) or config.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            tokens[name] = value
    return tokens


def end_ids(base: Path) -> set[int]:
    """Return the token ids at which the model's settings end a generation."""
    ids: set[int] = set()
    for file in ("generation_config.json", "config.json"):
        value = read_json(base / file).get("eos_token_id")
        ids.update(entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, int))
    return ids


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file; {} if there is no file. Raises ValueError if it holds something else."""
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return value
