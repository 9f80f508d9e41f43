"""The demo's task: describe a Python function, given its signature, as JSON with fixed keys (a card).

    python examples/make_rows.py FOLDER --seed 0     writes train.jsonl, validation.jsonl and heldout.jsonl

    urllib.parse.urljoin(base, url, allow_fragments=True)
    Join a base URL and a possibly relative URL to form an absolute
->
    {"module": "urllib.parse", "name": "urljoin", "first_word": "join", "required": ["base", "url"], "optional": [...]}

The functions, their parameters and the first lines of their docstrings come from the standard library of the Python
that runs this script, so nothing is downloaded. An answer gets 20 points for each of its five fields that is right.
"""

import argparse
import importlib
import inspect
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SYSTEM = "Describe the Python function as JSON with the keys module, name, first_word, required, optional."
ROWS = {"heldout": 48, "validation": 16, "train": 200}
MAX_QUESTION_LENGTH = 120
MAX_PARAMETERS = 5

MODULES = (
    "argparse ast base64 binascii bisect calendar cmd code codecs codeop collections colorsys compileall "
    "configparser contextlib copy csv curses.textpad dataclasses datetime decimal difflib dis doctest "
    "email.utils fileinput fnmatch fractions ftplib functools getpass gettext glob gzip hashlib heapq "
    "hmac html http.client imaplib inspect io ipaddress json keyword linecache locale logging lzma "
    "mailbox math mimetypes multiprocessing netrc operator os os.path pathlib pickle pickletools pkgutil "
    "platform plistlib poplib pprint profile pstats py_compile pydoc queue random re runpy sched secrets "
    "select selectors shelve shlex shutil signal site smtplib socket sqlite3 ssl stat statistics string "
    "struct subprocess symtable sysconfig tabnanny tarfile tempfile textwrap threading time timeit token "
    "tokenize trace traceback types typing unicodedata unittest urllib.parse urllib.request uuid warnings "
    "wave weakref xml.dom.minidom xml.etree.ElementTree zipapp zipfile zipimport zlib"
)
"""Those whose functions have short docstrings, separated by spaces."""

Card = dict[str, Any]


def split_rows(seed: int) -> dict[str, list[tuple[str, Card]]]:
    """Return (question, card) pairs for each part. No function is in two parts."""
    facts = sorted(_facts(), key=lambda fact: fact[0])
    random.Random(seed).shuffle(facts)
    parts, start = {}, 0
    for part, count in ROWS.items():
        parts[part] = facts[start : start + count]
        start += count
    assert len(facts) >= start, f"this Python's standard library gives only {len(facts)} rows"
    return parts


def prompt(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]


def chat(question: str, card: Card) -> dict[str, Any]:
    """Return a training row in the format of OpenAI's fine-tuning files."""
    return {"messages": [*prompt(question), {"role": "assistant", "content": json.dumps(card)}]}


def points(answer: str, card: Card) -> float:
    """Return the percentage of the card's fields that are right, 0 to 100. Text around the JSON object is ignored."""
    match = re.search(r"\{.*\}", answer, re.DOTALL)
    try:
        parsed = json.loads(match[0]) if match else None
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        return 0.0
    return 100 * sum(field in parsed and parsed[field] == value for field, value in card.items()) / len(card)


def _facts() -> Iterator[tuple[str, Card]]:
    for module_name in MODULES.split():
        try:
            module = importlib.import_module(module_name)
        except ImportError:  # some modules are missing on some systems
            continue
        for name, member in sorted(vars(module).items()):
            defined_in = getattr(member, "__module__", None) or module_name
            if inspect.isroutine(member) and not name.startswith("_") and defined_in == module_name:
                yield from _fact(module_name, name, member)


def _fact(module: str, name: str, function: Any) -> Iterator[tuple[str, Card]]:
    """Yield the function's question and card, or nothing if it does not fit a short row."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    parameters = list(signature.parameters.values())
    question = f"{module}.{name}{signature}\n{summary}"
    fits = (
        re.match(r"[A-Z][a-z]+ ", summary)
        and 0 < len(parameters) <= MAX_PARAMETERS
        and not any(p.kind in {p.VAR_POSITIONAL, p.VAR_KEYWORD} for p in parameters)
        and len(question) <= MAX_QUESTION_LENGTH
        and " at 0x" not in question  # such a default differs at every start
        and "<" not in question
    )
    if fits:
        card = {
            "module": module,
            "name": name,
            "first_word": summary.split()[0].lower(),
            "required": [p.name for p in parameters if p.default is p.empty],
            "optional": [p.name for p in parameters if p.default is not p.empty],
        }
        yield question, card


def write_rows(folder: Path, seed: int) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for part, rows in split_rows(seed).items():
        paths[part] = folder / f"{part}.jsonl"
        paths[part].write_text("".join(json.dumps(chat(question, card)) + "\n" for question, card in rows))
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the demo's rows.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for path in write_rows(options.folder, options.seed).values():
        print(path)
