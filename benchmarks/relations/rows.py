"""The rows: real text without a download, from the docstrings of the running Python's standard library."""

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
"""Labels of the classification task: twenty modules with many docstrings."""
CLASSIFIED = {"heldout": 300, "validation": 120, "train": 640}
EXPLAINED = {"heldout": 64, "validation": 32, "train": 128}
CARDS = {"heldout": 48, "validation": 24, "train": 96}
CARD_KEYS = ("module", "name", "required")
QUESTIONS = {"heldout": 40, "reward_heldout": 40, "train": 184}


def classified(seed: int) -> dict[str, list[Row]]:
    """Return first paragraphs of docstrings, labeled with their module. No text is in two parts."""
    texts: dict[str, str] = {}
    for module in MODULES:
        for _, text in _paragraphs(module):
            texts.setdefault(text, module)
    rows = [{"text": text, "label": module} for text, module in sorted(texts.items())]
    return _split(rows, CLASSIFIED, seed)


def explained(seed: int) -> dict[str, list[Row]]:
    """Return rows that ask for the first paragraph of a function's or class's docstring, given its name."""
    texts = {text: name for module in MODULES for name, text in _paragraphs(module)}
    rows = [{"messages": [*_question(name), message("assistant", text)]} for text, name in sorted(texts.items())]
    return _split(rows, EXPLAINED, seed)


def cards(seed: int) -> dict[str, list[Row]]:
    """Return rows of the demo's task with fewer keys: describe a function, given its signature, as JSON."""
    rows = []
    for part in split_rows(0).values():
        for question, card in part:
            short = json.dumps({key: card[key] for key in CARD_KEYS})
            prompt = [message("system", "Card, as JSON."), message("user", question.partition("\n")[0])]
            rows.append({"messages": [*prompt, message("assistant", short)]})
    return _split(rows, CARDS, seed)


def questions(seed: int) -> dict[str, list[Row]]:
    """Return questions about functions of the standard library, with the docstring's summary as `reference`."""
    rows = {}
    for part in split_rows(0).values():
        for question, card in part:
            name, summary = f"{card['module']}.{card['name']}", question.partition("\n")[2]
            rows[name] = {
                "messages": _question(name),
                "reference": summary,
            }
    return _split([rows[name] for name in sorted(rows)], QUESTIONS, seed)


def _question(name: str) -> list[dict[str, str]]:
    return [message("system", "Python."), message("user", f"What does {name} do?")]


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _split(rows: list[Row], parts: dict[str, int], seed: int) -> dict[str, list[Row]]:
    shuffled = random.Random(seed).sample(rows, len(rows))
    assert len(shuffled) >= sum(parts.values()), f"this Python's standard library gives only {len(shuffled)} rows"
    split, start = {}, 0
    for part, count in parts.items():
        split[part] = shuffled[start : start + count]
        start += count
    return split


def _paragraphs(module_name: str) -> Iterator[tuple[str, str]]:
    """Yield (name, first paragraph of the docstring) of the module's functions, classes and methods."""
    module = importlib.import_module(module_name)
    members = {name: value for name, value in vars(module).items() if getattr(value, "__module__", None) == module_name}
    classes = {name: value for name, value in members.items() if inspect.isclass(value)}
    methods = {
        f"{name}.{attribute}": value for name, kind in classes.items() for attribute, value in vars(kind).items()
    }
    for name, member in (members | methods).items():
        if inspect.isroutine(member) or inspect.isclass(member):
            text = (inspect.getdoc(member) or "").partition("\n\n")[0].replace("\n", " ")
            if 25 < len(text) < 160:
                yield f"{module_name}.{name}", text
