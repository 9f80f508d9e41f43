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
EXPLAINED = {"heldout": 64, "validation": 32, "train": 128}
CARDS = {"heldout": 48, "validation": 24, "train": 96}
CARD_KEYS = ("module", "name", "required")
ASKED = {"heldout": 40, "reward_heldout": 40, "train": 184}


def classified(seed: int) -> dict[str, list[Row]]:
    """First paragraphs of docstrings; the label is the module that they are from. No text is in two parts."""
    texts: dict[str, str] = {}
    for module in MODULES:
        for _, text in _paragraphs(module):
            texts.setdefault(text, module)
    rows = [{"text": text, "label": module} for text, module in sorted(texts.items())]
    return _split(rows, CLASSIFIED, seed)


def explained(seed: int) -> dict[str, list[Row]]:
    """From a function's or a class's name to what its docstring begins with."""
    texts = {text: name for module in MODULES for name, text in _paragraphs(module)}
    found = [{"messages": [*_question(name), message("assistant", text)]} for text, name in sorted(texts.items())]
    return _split(found, EXPLAINED, seed)


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
                "messages": _question(name),
                "reference": summary,
            }
    return _split([found[name] for name in sorted(found)], ASKED, seed)


def _question(name: str) -> list[dict[str, str]]:
    return [message("system", "Python."), message("user", f"What does {name} do?")]


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


def _paragraphs(module_name: str) -> Iterator[tuple[str, str]]:
    """(name, first paragraph of its docstring) of the module's functions and classes, and of their methods."""
    module = importlib.import_module(module_name)
    things = {name: each for name, each in vars(module).items() if getattr(each, "__module__", None) == module_name}
    classes = {name: each for name, each in things.items() if inspect.isclass(each)}
    methods = {f"{name}.{own}": each for name, kind in classes.items() for own, each in vars(kind).items()}
    for name, thing in (things | methods).items():
        if inspect.isroutine(thing) or inspect.isclass(thing):
            text = (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")
            if 25 < len(text) < 160:
                yield f"{module_name}.{name}", text
