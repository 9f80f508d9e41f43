"""Scripts in the sandbox: hostile ones end within their limits, ordinary ones give CPython's values."""

import math
import re
import time
from textwrap import dedent
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from api.spec.graders import Grade, sandbox
from api.spec.graders.similarity import METRICS
from tests.api.spec.graders.graders import a_grader, flags, graded

SCRIPT = {"type": "python", "name": "script"}


def run(source: str, text: str = "x", **item: Any) -> Grade:
    return graded({**SCRIPT, "source": dedent(source)}, text, **item)


def body(lines: str) -> str:
    return "def grade(sample, item):\n" + "".join(f"    {line}\n" for line in lines.split("\n"))


HOSTILE = {
    "an endless loop": body("while True: pass"),
    "a loop that catches its end": body(
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
    "an endless load": "while True: pass",
    "a long sum": body("return sum(range(10**12))"),
    "a long product": body("import itertools\nreturn len(list(itertools.product(range(100), repeat=8)))"),
    "a large power": body("return 9**9**9"),
    "a large text": body("return 'x' * 10**10"),
    "a text that doubles": body("text = 'x'\nwhile True: text += text"),
    "a large list": body("return len([0] * 10**9)"),
    "a large format": body("return '%1000000000d' % 1"),
    "padding": body("return 'a'.ljust(10**10)"),
    "endless recursion": body("return grade(sample, item)"),
    "mutual recursion": "def f(x): return g(x)\ndef g(x): return f(x)\n" + body("return f(1)"),
    "a nested list": body(
        "x = []\nfor _ in range(10**5): x = [x]\ny = []\nfor _ in range(10**5): y = [y]\nreturn x == y"
    ),
    "a result that doubles": body("x = [1]\nfor _ in range(60): x = [x, x]\nreturn x"),
    "an error that doubles": body("x = [1]\nfor _ in range(60): x = [x, x]\nraise ValueError(x)"),
    "a long error": body("raise ValueError('x' * 10**7)"),
    "a look-ahead that backtracks": body("import re\nreturn re.match(r'^(?=(a+)+$)(\\1|a)*b\\2', 'a' * 60 + 'b')"),
    "nested JSON": body("import json\nreturn json.loads('[' * 10**6)"),
    "a slow hash": body("import hashlib\nreturn len(hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**9))"),
    "a flood of output": body("while True: print('x' * 1000)"),
    "a command": body("import os\nreturn os.system('true')"),
    "the environment": body("import os\nreturn os.environ['PATH']"),
    "a socket": body("import socket\nreturn 1"),
    "a process": body("import subprocess\nreturn 1"),
    "a file": body("return len(open('/etc/passwd').read())"),
    "a path": body("import pathlib\nreturn len(pathlib.Path('/etc/passwd').read_text())"),
    "an import by name": body("return __import__('os').getpid()"),
    "the classes of an object": body("return len(().__class__.__bases__[0].__subclasses__())"),
    "the globals of a function": body("return len(grade.__globals__)"),
    "a format's attributes": body("return len('{0.__class__}'.format(sample))"),
    "an exit": body("raise SystemExit(3)"),
    "deep source": "x = " + "(" * 5000,
    "many lent calls": "from rapidfuzz import fuzz\n" + body("while True: fuzz.ratio('a', 'b')"),
    "slow lent calls": "from rapidfuzz import fuzz\n" + body("while True: fuzz.partial_ratio('ab' * 800, 'ba ' * 533)"),
    "a long lent text": "from rapidfuzz import fuzz\n" + body("return fuzz.ratio('a' * 10**6, 'b')"),
    "a schema of references": "from attune import matches_schema\n" + body("return matches_schema(1, {'$ref': '#'})"),
    "a long schema": "from attune import matches_schema\n" + body("return matches_schema(1, {'a': 'x' * 10**6})"),
    "a deep value": "from attune import matches_schema\n"
    + body("x = []\nfor _ in range(10**5): x = [x]\nreturn matches_schema(x, {})"),
    "floats of its own": "class float: pass\nnumber = lambda x: x\n" + body("return 'x'"),
    "no number": body("return float('nan')"),
    "no result": body("pass"),
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_script_ends_as_a_graded_error(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    began = time.monotonic()
    grade = run(source)
    assert time.monotonic() - began < 5
    assert grade.reward == 0
    assert flags(grade) <= {"python_grader_runtime_error", "python_grader_server_error"}
    assert flags(grade)
    assert all(len(text) < 400 for text in grade.metadata.details)


def test_regular_expressions_do_not_blow_up() -> None:
    assert run(body("import re\nreturn float(re.match('(a+)+$', 'a' * 40 + 'b') is None)")).reward == 1


def test_a_dead_interpreter_is_a_graded_error_and_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(stream: str, text: str) -> None:
        for child in psutil.Process().children():
            if child.name() == "monty":
                child.kill()

    monkeypatch.setattr(sandbox, "_discard", kill)
    dead = run(body("while True: print('x')"))
    assert flags(dead) == {"python_grader_server_error"}
    assert dead.errors.python_grader_server_error_type
    monkeypatch.undo()
    assert run(body("return 1")).reward == 1


ORDINARY = {
    "exact match": (
        """
        def grade(sample, item):
            return 1.0 if sample["output_text"].strip().lower() == item["answer"].strip().lower() else 0.0
        """,
        " paris",
        {"answer": "Paris "},
    ),
    "last number": (
        r"""
        import re

        def grade(sample, item):
            numbers = re.findall(r"-?\d+(?:\.\d+)?", sample["output_text"].replace(",", ""))
            if not numbers:
                return 0.0
            return 1.0 if abs(float(numbers[-1]) - float(item["answer"])) < 1e-6 else 0.0
        """,
        "We get 3 times 1,234, so the answer is 3,702.0.",
        {"answer": 3702},
    ),
    "token F1": (
        r"""
        import re
        import string
        from collections import Counter

        def normalize(text):
            text = "".join(character for character in text.lower() if character not in set(string.punctuation))
            return re.sub(r"\b(a|an|the)\b", " ", text).split()

        def grade(sample, item):
            ours, theirs = Counter(normalize(sample["output_text"])), Counter(normalize(item["answer"]))
            common = sum((ours & theirs).values())
            if common == 0:
                return 0
            precision, recall = common / sum(ours.values()), common / sum(theirs.values())
            return 2 * precision * recall / (precision + recall)
        """,
        "The quick, brown fox jumps!",
        {"answer": "a quick fox jumps over"},
    ),
    "fields of JSON": (
        """
        def grade(sample, item):
            answer = sample["output_json"]
            if not isinstance(answer, dict):
                return 0.0
            expected = item["fields"]
            return sum(answer.get(key) == value for key, value in expected.items()) / len(expected)
        """,
        '{"name": "Ada", "year": 1815, "city": null}',
        {"fields": {"name": "Ada", "year": 1815, "city": "London"}},
    ),
    "length penalty": (
        """
        import math

        TARGET = 40

        def grade(sample: dict, item: dict) -> float:
            words = len(sample["output_text"].split())
            return math.exp(-abs(words - TARGET) / TARGET)
        """,
        "word " * 55,
        {},
    ),
    "ordered steps": (
        """
        def grade(sample, item):
            text, position, found = sample["output_text"], 0, 0
            for step in item["steps"]:
                index = text.find(step, position)
                if index == -1:
                    break
                position = index + len(step)
                found += 1
            return round(found / max(1, len(item["steps"])), 3)
        """,
        "first open the box, then read the note",
        {"steps": ["open", "read", "close"]},
    ),
    "tags and a bonus": (
        r"""
        import re

        class Rubric:
            def __init__(self, weights):
                self.weights = weights

            def score(self, checks):
                return sum(weight for weight, passed in zip(self.weights, checks) if passed)

        def grade(sample, item):
            match = re.search(r"<answer>(.*?)</answer>", sample["output_text"], re.DOTALL)
            answer = match.group(1).strip() if match else ""
            checks = [match is not None, answer == item["answer"], len(answer) < 20]
            return Rubric([0.2, 0.7, 0.1]).score(checks)
        """,
        "Let me think.\n<answer>\n42\n</answer>",
        {"answer": "42"},
    ),
    "edit distance": (
        """
        def distance(a, b):
            row = list(range(len(b) + 1))
            for i, x in enumerate(a, 1):
                previous, row[0] = row[0], i
                for j, y in enumerate(b, 1):
                    previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
            return row[-1]

        def grade(sample, item):
            a, b = sample["output_text"], item["answer"]
            return 1 - distance(a, b) / max(len(a), len(b))
        """,
        "kitten on the mat",
        {"answer": "sitting on a mat"},
    ),
    "a date": (
        """
        from datetime import datetime

        def grade(sample, item):
            try:
                given = datetime.strptime(sample["output_text"].strip(), "%d.%m.%Y")
            except ValueError:
                return 0.0
            days = abs((given - datetime.fromisoformat(item["date"])).days)
            return max(0.0, 1.0 - days / 10)
        """,
        "03.10.2026",
        {"date": "2026-10-06"},
    ),
    "OpenAI's example": (
        """
        from rapidfuzz import fuzz, utils

        def grade(sample, item) -> float:
            output_text = sample["output_text"]
            reference_answer = item["reference_answer"]
            return fuzz.WRatio(output_text, reference_answer, processor=utils.default_process) / 100.0
        """,
        "fuzzy wuzzy was a bear",
        {"reference_answer": "fuzzy wuzzy had no hair"},
    ),
    "functions of Python's own": (
        """
        def grade(sample, item):
            words = list(map(len, filter(None, sample["output_text"].split(" "))))
            return getattr(item, "missing", 0) + float(format(sum(words) / 7, ".2f"))
        """,
        "two  words",
        {},
    ),
    "names of types as variables": (
        """
        def grade(sample, item):
            total = 0
            for str in sample["output_text"].split():
                total += str.istitle()
            return total
        """,
        "One two",
        {},
    ),
    "choices": (
        """
        def grade(sample, item):
            return len(set(sample["choices"][0]["message"]["content"])) / 26
        """,
        "sphinx of black quartz",
        {},
    ),
}


@pytest.mark.parametrize(("source", "text", "item"), ORDINARY.values(), ids=ORDINARY.keys())
def test_an_ordinary_script_gives_cpythons_value(source: str, text: str, item: dict[str, Any]) -> None:
    script = a_grader(**SCRIPT, source=dedent(source))
    assert script.faults() == {}
    namespace: dict[str, Any] = {}
    exec(dedent(source), namespace)
    parsed = item.get("fields") and {"name": "Ada", "year": 1815, "city": None}
    sample = {"output_text": text, "output_json": parsed, "choices": [{"message": {"content": text}}]}
    expected = float(namespace["grade"](sample, item))
    grade = run(source, text, **item)
    assert grade.metadata.details == ()
    assert grade.reward == expected > 0


FAULTY = [
    ("import re\nimport numpy as np\ndef grade(sample, item): return 1", "line 2.*`numpy`"),
    ("from collections import OrderedDict\ndef grade(sample, item): return 1", "line 1.*`OrderedDict`"),
    ("def grade(sample, item):\n    return scor", "line 2.*`scor`"),
    ("import os\ndef grade(sample, item):\n    return os.system('x')", "line 3.*`system`"),
    ("def grade(sample, item):\n    return 'a'.translate(str.maketrans('', '', '.'))", "line 2.*`str.maketrans`"),
    ("def grade(sample, item):\n    return len(list(map(str.lower, 'ab')))", "line 2.*`str.lower`"),
    ("def score(sample, item): return 1", r"define a function grade\(sample, item\)"),
    ("def grade(sample): return 1", r"define a function grade\(sample, item\)"),
    ("grade = 1", r"define a function grade\(sample, item\)"),
    ("def grade(sample, item):\n    yield 1", "line 2.*yield"),
    ("def grade(sample, item):\n    return (1", "SyntaxError"),
    ("1 / 0\ndef grade(sample, item): return 1", "line 1: ZeroDivisionError"),
]


@pytest.mark.parametrize(("source", "message"), FAULTY)
def test_what_the_sandbox_lacks_is_named_with_its_line(source: str, message: str) -> None:
    part = {**SCRIPT, "source": source}
    [fault] = a_grader(type="multi", graders={"a": part}, calculate_output="a").faults().items()
    assert fault[0] == "graders.a.source"
    assert re.search(message, fault[1]), fault


def test_similarity_is_lent_as_the_text_similarity_grader_has_it() -> None:
    lent = "from attune import similarity\n" + body("return similarity('rouge_l', sample['output_text'], item['a'])")
    text, reference = "the quick brown fox", "the slow brown fox"
    assert math.isclose(run(lent, text, a=reference).reward, METRICS["rouge_l"](text, reference))


@pytest.mark.parametrize(("answer", "reward"), [('{"n": 1}', 1), ('{"n": 0}', 0), ("[]", 0), ("no JSON", 0)])
def test_a_json_schema_is_checked_for_a_script(answer: str, reward: float) -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}}
    lent = "import attune\n" + body("return float(attune.matches_schema(sample['output_json'], item['schema']))")
    grade = run(lent, answer, schema=schema)
    assert (grade.reward, flags(grade)) == (reward, set())


def test_a_script_keeps_nothing_from_one_answer_to_the_next() -> None:
    source = "import random\nseen = []\n" + body("seen.append(1)\nreturn len(seen) + random.random()")
    assert run(source).reward == run(source).reward < 2


def test_a_long_script_is_refused() -> None:
    with pytest.raises(ValidationError, match="32768"):
        a_grader(**SCRIPT, source="#" * 40_000)
