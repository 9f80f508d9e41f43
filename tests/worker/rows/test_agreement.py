"""A scan, a preview and a job say the same of a file: what is found, in which row, in the same words."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.worker import bases
from tests.worker.prepared import jsonl
from worker import prepare, preview, scan
from worker.rows.errors import FileRequest, JobRejected
from worker.rows.findings import Finding
from worker.rows.readers import ReadLimits

USER, GOOD = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}
BAD, CALL = {"role": "assistant", "content": "5"}, {"name": "add", "arguments": {"a": 2}}
CALLS = {"role": "assistant", "tool_calls": [{"type": "function", "function": CALL}]}
RESULT = {"role": "tool", "name": "add", "content": "4"}
TOOL = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}}
HH = {"chosen": "\n\nHuman: hi\n\nAssistant: good", "rejected": "\n\nHuman: hi\n\nAssistant: bad"}
TURNS = [{"from": "Human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]


def table(*rows: Any, delimiter: str = ",") -> bytes:
    target = io.StringIO()
    csv.writer(target, delimiter=delimiter).writerows(rows)
    return target.getvalue().encode()


def parquet(*rows: dict[str, Any]) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), target)
    return target.getvalue()


def labelled(*labels: Any) -> bytes:
    return jsonl(*[{"text": f"text {number}", "label": label} for number, label in enumerate(labels)])


def labelled_table(*labels: str, delimiter: str = ",") -> bytes:
    rows = [(f"text {number}", label) for number, label in enumerate(labels)]
    return table(("text", "label"), *rows, delimiter=delimiter)


@dataclass(frozen=True)
class Sent:
    content: bytes
    method: str = "supervised"
    found: tuple[tuple[int | None, str], ...] = ()
    """(line, code) of what is said of it."""
    ok: bool = True


def reals(count: int) -> list[float]:
    return [number / 7 + 0.01 for number in range(count)]


FILES: dict[str, Sent] = {
    # Cells
    "completions of JSON in a table": Sent(table(("prompt", "completion"), ("x", '{"n": 1}'), ("y", "[1, 2]"))),
    "an invalid completion beside a prompt": Sent(
        jsonl({"prompt": "a", "completion": 3}, {"prompt": "a", "completion": "b"}),
        found=((1, "invalid_type"),),
        ok=False,
    ),
    "an invalid pair beside a prompt": Sent(
        jsonl({"prompt": "a", "chosen": 3, "rejected": "b"}), "dpo", ((1, "invalid_type"),), ok=False
    ),
    "pairs of JSON in a table": Sent(
        table(("prompt", "chosen", "rejected"), ("x", '{"n": 1}', "[]"), ("y", "[1]", "{}")), "dpo"
    ),
    "Alpaca with JSON in a table": Sent(
        table(("instruction", "input", "output"), ("x", '{"messages": 1}', '{"a": 1}'))
    ),
    "single answers of JSON in a table": Sent(
        table(("prompt", "completion", "label"), ("x", '{"n": 1}', "True"), ("y", "[1]", "false")), "kto"
    ),
    "a conversation in a table": Sent(table(("messages",), (json.dumps([USER, GOOD]),))),
    "a conversation as Python shows it, in a table": Sent(
        table(("messages",), (str([USER, GOOD]),)), found=((1, "invalid_json"),), ok=False
    ),
    "a conversation as text in Parquet": Sent(parquet({"messages": json.dumps([USER, GOOD])})),
    "messages as text in prompt and completion": Sent(
        parquet({"prompt": json.dumps([USER]), "completion": json.dumps([GOOD])}), found=((1, "json_text"),) * 2
    ),
    # Pairs
    "a pair's prompt as input": Sent(
        jsonl({"input": "hi?", "chosen": "good", "rejected": "bad"}), "dpo", ((1, "prompt_key"),)
    ),
    "a pair of system and question": Sent(
        jsonl({"system": "Be good.", "question": "hi?", "chosen": "good", "rejected": "bad"}),
        "dpo",
        ((1, "prompt_key"),),
    ),
    "a pair of messages and texts": Sent(jsonl({"messages": [USER], "chosen": "4", "rejected": "5"}), "dpo"),
    "a pair that repeats its prompt": Sent(jsonl(HH), "reward", ((1, "repeated_prompt"),)),
    "a pair whose prompt is unknown": Sent(
        jsonl({"post": "hi?", "chosen": "good", "rejected": "bad"}), "dpo", ((1, "unread_prompt"),), ok=False
    ),
    "a pair without a prompt": Sent(
        jsonl({"id": "a", "chosen": "x", "rejected": "y"}), "orpo", ((1, "unknown_key"), (1, "no_prompt"))
    ),
    "UltraFeedback": Sent(
        jsonl(
            {
                "prompt": "2 + 2?",
                "prompt_id": "1",
                "chosen": [USER, GOOD],
                "rejected": [USER, BAD],
                "messages": [USER, GOOD],
                "score_chosen": 8.5,
                "score_rejected": 3.0,
            }
        ),
        "dpo",
        ((1, "unknown_key"),) * 4,
    ),
    "LLaMA-Factory's pairs": Sent(
        jsonl({"conversations": TURNS[:1], "chosen": TURNS[1], "rejected": {"from": "gpt", "value": "5"}}),
        "dpo",
        ((1, "renamed_role"),),
    ),
    # Labels
    "real numbers in a table": Sent(
        labelled_table(*map(str, reals(30))), "classification", ((None, "written_numbers"),)
    ),
    "real numbers": Sent(labelled(*reals(9)), "classification"),
    "numbers and a word in a table": Sent(labelled_table("0.5", "1.5", "good", "good"), "classification"),
    "classes that pandas made real": Sent(labelled_table("1.0", "0.0", "1.0", "2.0"), "classification"),
    "zeros and ones": Sent(labelled([1, 0, 1], [0, 0, 1], [0, 1, 0]), "classification", ((None, "zeros_and_ones"),)),
    "zeros and ones in a table": Sent(
        labelled_table("[1, 0]", "[0, 1]", "[1, 1]", "[0, 0]"), "classification", ((None, "zeros_and_ones"),)
    ),
    "zeros and ones of another length": Sent(
        labelled([1, 0, 1], [0, 1]), "classification", ((2, "invalid_label"), (None, "zeros_and_ones")), ok=False
    ),
    "numbers of classes in lists": Sent(labelled([0, 1], [2], [0, 2], [1]), "classification"),
    "labels that look alike": Sent(
        labelled("spam", "Spam ", "ham", "HAM", "spam"), "classification", ((None, "similar_labels"),) * 2
    ),
    "a label of its own for most rows": Sent(
        labelled_table(*[f"0,{number}" for number in range(30)], delimiter=";"),
        "classification",
        ((None, "many_labels"),),
    ),
    "a class twice": Sent(labelled(["a", "a"], ["b"]), "classification", ((1, "repeated_label"),)),
    "lists of numbers": Sent(
        labelled([0.5, 1.5], [1, 2.5]), "classification", ((1, "invalid_label"), (2, "invalid_label")), ok=False
    ),
    # Shapes
    "calls as Hugging Face writes them": Sent(
        jsonl({"messages": [USER, CALLS, RESULT, GOOD], "tools": [TOOL]}), found=((1, "call_ids"), (1, "bare_tool"))
    ),
    "ShareGPT with capitals": Sent(jsonl({"conversations": TURNS})),
    "ShareGPT under messages": Sent(jsonl({"messages": TURNS}), found=((1, "renamed_role"),)),
    "TRL's messages": Sent(jsonl({"prompt": [USER], "completion": [GOOD]})),
    "Alpaca's history": Sent(
        jsonl({"instruction": "a", "input": "", "output": "b", "system": "c", "history": [["d", "e"]]})
    ),
    "blank lines and doubles": Sent(
        jsonl({"text": "a"}) + b"\n" + jsonl({"text": "a"}), found=((2, "blank_line"), (3, "duplicate"))
    ),
    "a prompt and a response": Sent(jsonl({"prompt": "a", "response": "b"}), found=((1, "answer_key"),)),
    "Dolly": Sent(
        jsonl({"instruction": "a", "context": "c", "response": "b", "category": "qa"}),
        found=((1, "answer_key"),) * 2 + ((1, "unknown_key"),),
    ),
    "SlimOrca": Sent(
        jsonl({"conversations": [{**TURNS[0], "weight": 0}, {**TURNS[1], "weight": 1}]}),
    ),
    "a conversation that is good": Sent(
        jsonl({"conversations": TURNS, "kto_tag": True}, {"conversations": TURNS, "kto_tag": False}),
        "kto",
        ((1, "renamed_role"), (2, "renamed_role")),
    ),
    "messages that are good": Sent(
        jsonl({"messages": [USER, GOOD], "kto_tag": "true"}, {"messages": [USER, BAD], "kto_tag": "false"}), "kto"
    ),
    "Alpaca's answer that is good": Sent(
        jsonl({"instruction": "a", "output": "b", "kto_tag": True}), "kto", ((None, "unbalanced_labels"),)
    ),
    "good as one and bad as zero": Sent(
        table(("prompt", "completion", "label"), ("a", "b", "1"), ("c", "d", "0")), "kto"
    ),
    "good as numbers": Sent(
        jsonl({"prompt": "a", "completion": "b", "label": 1}, {"prompt": "c", "completion": "b", "label": 0.0}), "kto"
    ),
    "good as another number": Sent(
        jsonl({"prompt": "a", "completion": "b", "label": 2}), "kto", ((1, "invalid_label"),), ok=False
    ),
    "labels under labels": Sent(
        jsonl({"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": []}), "classification"
    ),
    "a table with capitals": Sent(
        table(("Text", "Label", "ID"), ("a", "x", "1"), ("b", "y", "2")),
        "classification",
        ((1, "unknown_key"), (2, "unknown_key")),
    ),
    "images": Sent(
        jsonl({"messages": [USER, GOOD], "images": ["a.png"]}), found=((1, "unsupported_content"),), ok=False
    ),
    "an image in a message": Sent(
        jsonl({"messages": [{"role": "user", "content": [{"type": "image"}]}, GOOD]}),
        found=((1, "unsupported_content"),),
        ok=False,
    ),
    "parts as the Responses API has them": Sent(
        jsonl({"messages": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}, GOOD], "images": []})
    ),
    "keys that clients leave empty": Sent(
        jsonl({"messages": [{**USER, "tool_calls": None}, {**GOOD, "annotations": [], "refusal": None}]})
    ),
    "messages that say whether they are learnt": Sent(
        jsonl({"messages": [{**USER, "train": False}, {**GOOD, "train": True}]}), found=((1, "weight_key"),)
    ),
    "messages with a label": Sent(
        jsonl({"messages": [USER, GOOD], "label": True}, {"messages": [USER, BAD], "label": False}), "kto"
    ),
    "OpenOrca": Sent(
        jsonl({"system_prompt": "a", "question": "b", "response": "c"}),
        found=((1, "answer_key"), (1, "answer_key"), (1, "system_key")),
    ),
    "a prompt beside a conversation": Sent(
        jsonl({"messages": [USER, GOOD], "prompt": "2 + 2?"}), found=((1, "unknown_key"),)
    ),
    "lists as Python shows them": Sent(
        labelled_table("['a', 'b']", "a"), "classification", ((1, "invalid_label"), (None, "one_label")), ok=False
    ),
    "a table with spaces and a blank first line": Sent(b'\nprompt, completion\n"a, b", "c"\n'),
    "null columns": Sent(jsonl({"text": "a", "label": None, "messages": None}, {"text": "b", "label": None})),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bases.base(tmp_path_factory.mktemp("bases") / "base", template=bases.TOOLS)


def said(findings: list[Finding]) -> list[tuple[Any, ...]]:
    return sorted(((each["line"] or 0), each["code"], each["message"]) for each in findings)


def scanned(folder: Path) -> list[Finding]:
    return scan.scan(folder / "input", ReadLimits(1 << 20, 10_000, 1 << 30)).findings


def previewed(folder: Path, method: dict[str, Any], file: FileRequest) -> list[Finding]:
    report = preview.Report()
    request = preview.Request(want="rows", method=method, files=[preview.PreviewFile(file)], rows=100)
    preview.run_preview(folder, request, report)
    return [finding for row in report.rows for finding in row.findings] + report.findings


def job(folder: Path, method: dict[str, Any], file: FileRequest) -> tuple[bool, list[Finding]]:
    report, ok = prepare.Report(ok=True, files=[]), True
    try:
        prepare.prepare(folder, prepare.Request("ftjob-1", method, [file]), report)
    except JobRejected:
        ok = False
    return ok, report.files[0].findings


@pytest.mark.parametrize("name", FILES)
def test_scan_preview_and_job_find_the_same(name: str, tmp_path: Path, base: Path) -> None:
    sent = FILES[name]
    (tmp_path / "base").symlink_to(base)
    (tmp_path / "input").write_bytes(sent.content)
    file, method = FileRequest("train", "input", "file-abc", "training_file", 1), {"type": sent.method}
    ok, findings = job(tmp_path, method, file)
    assert [(line or None, code) for line, code, _ in said(findings)] == sorted(
        sent.found, key=lambda each: (each[0] or 0, each[1])
    )
    assert ok == sent.ok
    assert said(scanned(tmp_path)) == said(previewed(tmp_path, method, file)) == said(findings)
