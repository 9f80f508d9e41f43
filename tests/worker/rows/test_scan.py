"""What an uploaded file holds, told before any job names it."""

import json
from pathlib import Path
from typing import Any

import pytest

from api.services.file_reports import group_findings
from api.spec.formats import FORMATS
from api.spec.methods import MethodBase
from api.spec.methods.dpo import Dpo
from api.spec.methods.supervised import Supervised
from tests.worker.children import run_child
from tests.worker.prepared import jsonl
from worker.rows.scanner import Scanner

CHAT = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
QUESTION = {"messages": [{"role": "user", "content": "2 + 2?"}], "answer": "4"}


def scan(folder: Path, content: bytes, **options: str) -> dict[str, Any]:
    (folder / "input").write_bytes(content)
    (folder / "scan.json").write_text(json.dumps({"memory_bytes": 1 << 30, "cpu_seconds": 60, **options}))
    assert run_child("worker.scan", folder).code == 0
    report: dict[str, Any] = json.loads((folder / "report.json").read_bytes())
    return report


def test_format_rows_and_container_are_told(tmp_path: Path) -> None:
    report = scan(tmp_path, jsonl(CHAT, CHAT | {"tools": []}))
    assert (report["format"], report["rows"], report["container"], report["error"]) == ("chat", 2, "jsonl", None)


def test_a_finding_has_its_line_and_is_counted_by_kind(tmp_path: Path) -> None:
    report = scan(tmp_path, jsonl(CHAT, {"messages": "hello"}, CHAT) + b"{broken\n")
    assert [(each["line"], each["severity"]) for each in report["findings"]] == [
        (2, "error"), (3, "warning"), (4, "error")
    ]  # fmt: skip
    assert report["finding_counts"]["duplicate"] == 1


def test_messages_that_end_with_a_question_are_prompts(tmp_path: Path) -> None:
    report = scan(tmp_path, jsonl(*[QUESTION | {"answer": str(n)} for n in range(3)]))
    assert (report["format"], report["findings"]) == ("prompts", [])


@pytest.mark.parametrize(
    ("method", "codes"),
    [
        ("supervised", {"no_assistant_message": 1}),
        ("ppo", {"answered_prompt": 1}),
        ("dpo", {"wrong_format": 2}),
        ("classification", {"wrong_format": 2}),
    ],
)
def test_rows_of_another_method_are_errors_where_the_method_is_known(
    tmp_path: Path, method: str, codes: dict[str, int]
) -> None:
    assert scan(tmp_path, jsonl(QUESTION, CHAT), method=method)["finding_counts"] == codes


@pytest.mark.parametrize(
    ("method", "row", "accepted"),
    [(Dpo, CHAT, "only the format preference."), (Supervised, {"chosen": "a", "rejected": "b"}, "only the formats ")],
)
def test_a_wrong_format_names_those_that_the_method_accepts(
    method: type[MethodBase], row: dict[str, Any], accepted: str
) -> None:
    scanner = Scanner(method)
    scanner.add(1, row)
    assert accepted in str(scanner.best()[1].first_error)


def test_supervised_training_warns_once_that_it_ignores_labels() -> None:
    scanner = Scanner(Supervised)
    for number in (1, 2):
        scanner.add(number, {"text": f"text {number}", "label": "a"})
    name, findings = scanner.best()
    assert (name, findings.errors, findings.counts["ignored_labels"]) == ("text", 0, 1)
    assert findings.listed[0]["code"] == "ignored_labels"


def test_a_warning_that_errors_displace_from_the_list_stays_a_warning(tmp_path: Path) -> None:
    report = scan(tmp_path, jsonl(CHAT, CHAT, *[{"messages": n} for n in range(120)]))
    assert {finding["severity"] for finding in report["findings"]} == {"error"}
    groups = [(group.severity, group.code, group.count) for group in group_findings(report)]
    assert groups[1:] == [("warning", "duplicate", 1)]
    assert groups[0][::2] == ("error", 120)


def test_every_formats_own_example_is_taken_for_it(tmp_path: Path) -> None:
    for name, entry in FORMATS.items():
        folder = tmp_path / name
        folder.mkdir()
        report = scan(folder, jsonl(dict(entry.example)))
        assert report["format"] == name
        alone = {"labelled": {"one_label": 1}, "unpaired": {"unbalanced_labels": 1}}  # a row of one label
        assert report["finding_counts"] == alone.get(name, {})


def test_a_file_that_holds_no_rows_is_unreadable(tmp_path: Path) -> None:
    report = scan(tmp_path, b"%PDF-1.7 ...")
    assert "PDF" in report["error"]


def test_a_hundred_findings_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    report = scan(tmp_path, jsonl(CHAT, *[{"messages": n} for n in range(150)]))
    assert (len(report["findings"]), sum(report["finding_counts"].values())) == (100, 150)


def excerpts(report: dict[str, Any]) -> list[tuple[int, str]]:
    return [(each["line"], each["text"]) for each in report["excerpts"]]


def test_the_first_rows_of_each_kind_of_finding_are_shown_as_they_are_in_the_file(tmp_path: Path) -> None:
    wrong = jsonl(*[{"messages": number} for number in range(20)])
    long = b'{"prompt": "' + b"x" * 600 + b'"}\n'
    report = scan(tmp_path, jsonl(CHAT) + b"{broken\n" + wrong + long)
    five = [(3 + number, f'{{"messages": {number}}}') for number in range(5)]
    assert excerpts(report) == [(2, "{broken"), *five, (23, long.decode()[:500])]
    assert [each["cut"] for each in report["excerpts"]] == [False] * 6 + [True]


def test_rows_that_are_no_lines_are_shown_as_json(tmp_path: Path) -> None:
    report = scan(tmp_path, b"prompt,completion\na,b\n,c\n")
    assert excerpts(report) == [(2, '{"completion":"c"}')]
