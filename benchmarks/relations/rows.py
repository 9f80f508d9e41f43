"""The rows: all from the docstrings of the standard library that runs this program, so real text and no download."""

import importlib
import inspect
import json
import random
from collections.abc import Iterator
from typing import Any

from examples.make_rows import split_rows

Row = dict[str, Any]

MODULES = (
    *("ast", "calendar", "collections", "datetime", "decimal", "doctest", "imaplib", "inspect", "ipaddress", "logging"),
    *("mailbox", "math", "pathlib", "shutil", "ssl", "statistics", "tarfile", "threading", "unittest.case"),
    "urllib.request",
)
"""The labels of the classification: twenty modules with many docstrings."""
CLASSIFIED = {"heldout": 300, "validation": 120, "train": 640}
CARDS = {"heldout": 48, "validation": 24, "train": 96}
CARD_KEYS = ("module", "name", "required")
ASKED = {"heldout": 40, "reward_heldout": 40, "train": 112}


def classified(seed: int) -> dict[str, list[Row]]:
    """First paragraphs of docstrings; the label is the module that they are from. No text is in two parts."""
    texts: dict[str, str] = {}
    for module in MODULES:
        for text in _paragraphs(module):
            texts.setdefault(text, module)
    rows = [{"text": text, "label": module} for text, module in sorted(texts.items())]
    return _split(rows, CLASSIFIED, seed)


def cards(seed: int) -> dict[str, list[Row]]:
    """The demo's task, shortened: from a function's head to a card about it, in a fixed JSON form."""
    found = []
    for part in split_rows(0).values():
        for question, card in part:
            short = json.dumps({key: card[key] for key in CARD_KEYS})
            asking = [message("system", "Card, as JSON."), message("user", question.partition("\n")[0])]
            found.append({"messages": [*asking, message("assistant", short)]})
    return _split(found, CARDS, seed)


def asked(seed: int) -> dict[str, list[Row]]:
    """Questions about functions of the standard library, with their docstring's summary as `reference`."""
    found = {}
    for part in split_rows(0).values():
        for question, card in part:
            name, summary = f"{card['module']}.{card['name']}", question.partition("\n")[2]
            found[name] = {
                "messages": [message("system", "Python."), message("user", f"What does {name} do?")],
                "reference": summary,
            }
    return _split([found[name] for name in sorted(found)], ASKED, seed)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _split(rows: list[Row], parts: dict[str, int], seed: int) -> dict[str, list[Row]]:
    shuffled = random.Random(seed).sample(rows, len(rows))
    assert len(shuffled) >= sum(parts.values()), f"this Python's standard library gives only {len(shuffled)} rows"
    found, start = {}, 0
    for part, count in parts.items():
        found[part] = shuffled[start : start + count]
        start += count
    return found


def _paragraphs(module_name: str) -> Iterator[str]:
    module = importlib.import_module(module_name)
    things = [each for each in vars(module).values() if getattr(each, "__module__", None) == module_name]
    methods = [each for thing in things if inspect.isclass(thing) for each in vars(thing).values()]
    for thing in [*things, *methods]:
        if inspect.isroutine(thing) or inspect.isclass(thing):
            text = (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")
            if 25 < len(text) < 160:
                yield text
