"""Rows as the peers get them: tokens that are the same for all, so that no chat template makes a difference."""

from collections.abc import Mapping
from typing import Any

IGNORED = -100
"""The label of a token without a loss."""


def sequences(row: Mapping[str, Any]) -> dict[str, tuple[list[int], Any]]:
    """Return (tokens, labels) of each sequence of the row, by the prefix of its columns: "", or the sides of a pair."""
    if "input_ids" in row:
        return {"": (row["input_ids"], row["labels"])}
    prompt = row["prompt_ids"]
    sides = {side: row[f"{side}_ids"] for side in ("chosen", "rejected")}
    return {f"{side}_": (prompt + answer, [IGNORED] * len(prompt) + answer) for side, answer in sides.items()}
