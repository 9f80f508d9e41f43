"""Forty files that no job can train on: each ends in a finding with its row, in little memory, and never in a crash."""

import csv
import gzip
import io
import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tests.worker.prepared import Content, jsonl, prepare

MEMORY_BYTES = 700_000_000
USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
CHAT = {"messages": [USER, ANSWER]}
TEXT = {"text": "a document"}
PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
LABELLED = {"text": "fine", "label": "good"}
PROMPT = {"messages": [USER]}
PPO = {"type": "ppo", "ppo": {"reward_model": "rm"}}
REGRESSION = {"type": "classification", "classification": {"problem": "regression"}}
GIGABYTE = 1 << 30


@dataclass(frozen=True)
class Bad:
    content: Content
    code: str
    """Of the finding that says what is wrong."""
    line: int | None
    """Where; None where it is the file as a whole."""
    method: dict[str, Any] | str = "supervised"


def after(row: Any, *bad: bytes) -> bytes:
    """Lines, of which the first is good."""
    return jsonl(row) + b"\n".join(bad) + b"\n"


def sparse_line(path: Path) -> None:
    with path.open("wb") as file:
        file.write(jsonl(TEXT) + b'{"text": "')
        file.seek(GIGABYTE, io.SEEK_CUR)
        file.write(b'"}\n' + jsonl({"text": "another"}))


def zeros(compressed: Callable[[Iterable[bytes]], bytes]) -> bytes:
    """A gigabyte of spaces in one line."""
    return compressed([jsonl(TEXT), *[b" " * (1 << 20)] * 1024])


def gzipped(chunks: Iterable[bytes]) -> bytes:
    target = io.BytesIO()
    with gzip.GzipFile(fileobj=target, mode="wb", compresslevel=1) as file:
        for chunk in chunks:
            file.write(chunk)
    return target.getvalue()


def zstandard_compressed(chunks: Iterable[bytes]) -> bytes:
    engine = zstandard.ZstdCompressor().compressobj()
    return b"".join([*map(engine.compress, chunks), engine.flush()])


def table(*rows: Any) -> bytes:
    target = io.StringIO()
    csv.writer(target).writerows(rows)
    return target.getvalue().encode()


def parquet(rows: list[dict[str, Any]], **options: Any) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), target, **options)
    return target.getvalue()


def damaged_pages() -> bytes:
    content = bytearray(parquet([{"text": f"document {number} " * 9} for number in range(500)], compression="zstd"))
    content[40:400] = bytes(b ^ 0x5A for b in content[40:400])
    return bytes(content)


def lying_parquet() -> bytes:
    """A value of two megabytes, once in the file and in each of half a million rows."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 500_000, pa.int32()), pa.array(["x" * 2_000_000]))
    target = io.BytesIO()
    pq.write_table(pa.table({"text": column}), target, store_schema=False)
    return target.getvalue()


def lying_list() -> bytes:
    """The same within one row."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 500_000, pa.int32()), pa.array(["x" * 100_000]))
    target = io.BytesIO()
    pq.write_table(pa.table({"messages": pa.ListArray.from_arrays([0, 500_000], values)}), target, store_schema=False)
    return target.getvalue()


def impossible_footer() -> bytes:
    content = parquet([TEXT])
    return content[:-8] + struct.pack("<I", 0x7FFFFFFF) + b"PAR1"


def deep_call() -> dict[str, Any]:
    function = {"name": "f", "arguments": '{"a":' * 900 + '"x"' + "}" * 900}
    answer = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    return {"messages": [USER, answer]}


def array_of(rows: int) -> bytes:
    return json.dumps([{"text": f"document {number}"} for number in range(rows)]).encode()


FILES: dict[str, Bad] = {
    # JSON lines
    "not JSON": Bad(after(TEXT, b'{"text": "a"', b'{"text": "b"}'), "invalid_json", 2),
    "single quotes": Bad(after(TEXT, b"{'text': 'a'}"), "invalid_json", 2),
    "trailing comma": Bad(after(TEXT, b'{"text": "a",}'), "invalid_json", 2),
    "an array in a line": Bad(after(TEXT, b'["a"]'), "not_an_object", 2),
    "NaN": Bad(after(LABELLED, b'{"text": "a", "label": NaN}'), "invalid_json", 2, "classification"),
    "long integer": Bad(
        after(LABELLED, b'{"text": "a", "label": ' + b"9" * 5000 + b"}"), "number_out_of_range", 2, "classification"
    ),
    "nesting": Bad(after(TEXT, b'{"text":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "invalid_json", 2),
    "nesting around a NUL": Bad(after(TEXT, b'{"text":' * 600 + rb'"\u0000"' + b"}" * 600), "invalid_json", 2),
    "nesting in a call": Bad(jsonl(CHAT, deep_call()), "too_deep", 2),
    "number of 400 digits": Bad(
        after({"text": "a", "label": 0.5}, b'{"text": "b", "label": 1' + b"0" * 400 + b"}"),
        "invalid_label",
        2,
        "classification",
    ),
    "number beyond 32 bits": Bad(
        after(LABELLED, b'{"text": "b", "label": 1e300}'), "invalid_label", 2, "classification"
    ),
    "lone surrogate": Bad(after(TEXT, rb'{"text": "\udc00"}'), "surrogate", 2),
    "duplicate key": Bad(after(TEXT, b'{"text": "a", "text": "b"}'), "duplicate_key", 2),
    "NUL": Bad(after(TEXT, rb'{"text": "\u0000"}'), "nul_character", 2),
    "not UTF-8": Bad(after(TEXT, b'{"text": "caf\xe9"}'), "invalid_utf8", 2),
    "UTF-16": Bad(jsonl(TEXT).decode().encode("utf-16"), "unsupported_container", None),
    "line of a gigabyte": Bad(sparse_line, "line_too_long", 2),
    "mixed formats": Bad(jsonl(TEXT, CHAT), "mixed_formats", 2),
    "no known keys": Bad(jsonl({"problem": "a", "solution": "b"}), "wrong_format", 1),
    # Conversations
    "role missing": Bad(jsonl(CHAT, {"messages": [USER, {"content": "Hello"}]}), "missing_role", 2),
    "unknown role": Bad(jsonl(CHAT, {"messages": [{"role": "robot", "content": "x"}]}), "unknown_role", 2),
    "no answer": Bad(jsonl(CHAT, {"messages": [USER]}), "no_assistant_message", 2),
    "sharegpt without value": Bad(jsonl({"conversations": [{"from": "human"}]}), "invalid_messages", 1),
    # Formats that other methods learn from
    "chat for dpo": Bad(jsonl(CHAT), "wrong_format", 1, "dpo"),
    "text for kto": Bad(jsonl(TEXT), "wrong_format", 1, "kto"),
    "pairs for supervised": Bad(jsonl(PAIR), "wrong_format", 1),
    "pairs for ppo": Bad(jsonl({"chosen": "b", "rejected": "c"}), "wrong_format", 1, PPO),
    "text for classification": Bad(jsonl(TEXT), "wrong_format", 1, "classification"),
    # Pairs, labels, prompts
    "rejected missing": Bad(jsonl(PAIR, {"prompt": "a", "chosen": "b"}), "missing_key", 2, "dpo"),
    "rejected of another type": Bad(jsonl(PAIR, {**PAIR, "rejected": 3}), "invalid_type", 2, "reward"),
    "chosen ends with the user": Bad(jsonl({"chosen": [USER], "rejected": [USER]}), "no_assistant_message", 1, "orpo"),
    "two preferred answers": Bad(
        jsonl({"input": PROMPT, "preferred_output": [ANSWER] * 2, "non_preferred_output": [ANSWER]}),
        "invalid_messages",
        1,
        "dpo",
    ),
    "label of an answer is text": Bad(
        jsonl({"prompt": "a", "completion": "b", "label": "good"}), "invalid_label", 1, "kto"
    ),
    "label is an object": Bad(jsonl(LABELLED, {"text": "a", "label": {}}), "invalid_label", 2, "classification"),
    "label of another kind": Bad(jsonl({"text": "a", "label": 0.5}, LABELLED), "invalid_label", 2, "classification"),
    "label is no number": Bad(jsonl(LABELLED), "invalid_label", 1, REGRESSION),
    "one label only": Bad(jsonl(LABELLED, {"text": "bad", "label": "good"}), "one_label", None, "classification"),
    "no label at all": Bad(jsonl({"text": "a", "label": []}), "no_label", None, "classification"),
    "prompt with its answer": Bad(jsonl(PROMPT, CHAT), "answered_prompt", 2, PPO),
    # Other containers
    "array cut off": Bad(array_of(3)[:-20], "cut_off", 3),
    "array with a bad element": Bad(b'[{"text": "a"}, {"text": }, {"text": "c"}]', "invalid_json", 2),
    "array and more": Bad(array_of(2) + b"{}", "invalid_json", 3),
    "array of a huge element": Bad(b'[{"text": "a"}, "' + b"x" * 9_000_000 + b'"]', "line_too_long", 2),
    "ragged CSV": Bad(table(("prompt", "completion"), ("a", "b"), ("c", "d", "e")), "ragged_row", 2),
    "CSV without header": Bad(table(("two and two", "four"), ("three", "six")), "no_header", None),
    "CSV with an open quote": Bad(b'prompt,completion\na,b\n"c,d\ne,f\n', "invalid_csv", 2),
    "CSV of messages that are no JSON": Bad(table(("messages",), ("hello",)), "invalid_messages", 1),
    "gzip cut off": Bad(gzipped([jsonl(*[{"text": f"document {n}"} for n in range(9999)])])[:-9], "cut_off", 10000),
    "gzip bomb": Bad(lambda path: path.write_bytes(zeros(gzipped)), "decompressed_too_large", 2),
    "zstd bomb": Bad(lambda path: path.write_bytes(zeros(zstandard_compressed)), "decompressed_too_large", 2),
    "zstd cut off": Bad(zstandard_compressed([jsonl(*[{"text": "a"}] * 2)])[:-3], "cut_off", None),
    "zstd damaged": Bad(b"\x28\xb5\x2f\xfd" + b"\x99" * 60, "damaged", None),
    "spreadsheet": Bad(b"PK\x03\x04" + b"\0" * 60, "unsupported_container", None),
    "Parquet cut off": Bad(parquet([TEXT] * 50)[:-30], "cut_off", None),
    "Parquet with damaged pages": Bad(damaged_pages(), "damaged", None),
    "Parquet with an impossible footer": Bad(impossible_footer(), "damaged", None),
    "Parquet that unfolds": Bad(lambda path: path.write_bytes(lying_parquet()), "line_too_long", 1),
    "Parquet that unfolds in one row": Bad(lambda path: path.write_bytes(lying_list()), "too_large", None),
    "Parquet with bytes that are no text": Bad(parquet([{"text": b"a"}, {"text": b"\xff"}]), "invalid_utf8", 2),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_ends_in_a_finding_with_its_row(name: str, tmp_path: Path, base: Path) -> None:
    bad = FILES[name]
    method = {"type": bad.method} if isinstance(bad.method, str) else bad.method
    outcome = prepare(tmp_path / "run", base, bad.content, method=method)
    assert not outcome.report["ok"]
    assert outcome.code == "invalid_training_file"
    errors = [(each["code"], each["line"]) for each in outcome.findings if each["severity"] == "error"]
    assert (bad.code, bad.line) in errors
    assert outcome.peak_bytes < MEMORY_BYTES
    assert not list((outcome.folder / "data").iterdir())


@pytest.mark.parametrize(
    ("content", "method", "codes"),
    [
        (jsonl(PAIR, {**PAIR, "rejected": "b"}), "dpo", {"identical_answers": 1}),
        (jsonl(TEXT, TEXT, {"text": "b"}, TEXT), "supervised", {"duplicate": 2}),
        (jsonl({"prompt": "a", "completion": " "}), "supervised", {"empty_answer": 1}),
        (
            jsonl({"messages": [USER, USER, ANSWER, {"role": "system", "content": "x"}]}),
            "supervised",
            {"role_order": 2},
        ),
        (jsonl({"messages": [ANSWER, USER, ANSWER]}), "supervised", {"role_order": 1}),
        (jsonl({"text": "word " * 200}, TEXT), "supervised", {"too_long": 1}),
        (
            jsonl(*[{**LABELLED, "text": str(n)} for n in range(19)], {"text": "x", "label": "bad"}),
            "classification",
            {"unbalanced_labels": 1},
        ),
    ],
)
def test_what_is_only_doubtful_is_a_warning(
    content: bytes, method: str, codes: dict[str, int], tmp_path: Path, base: Path
) -> None:
    outcome = prepare(tmp_path / "run", base, content, method={"type": method}, context_window=100)
    assert outcome.report["ok"]
    assert outcome.report["files"][0]["finding_counts"] == codes
    assert {each["severity"] for each in outcome.findings} == {"warning"}


def test_validation_rows_that_were_trained_on_are_told(tmp_path: Path, base: Path) -> None:
    validation = jsonl({"text": "new"}, {"text": "a document"})
    outcome = prepare(tmp_path / "run", base, jsonl({"text": "b"}, TEXT), validation)
    assert [(each["line"], each["code"]) for each in outcome.findings] == [(2, "validation_overlap")]
    assert outcome.findings[0]["message"] == "Example 2 is also in the training file (example 2)"


def test_a_wrong_format_is_told_in_openais_words_and_with_what_fits(tmp_path: Path, base: Path) -> None:
    outcome = prepare(tmp_path / "run", base, jsonl(CHAT), method={"type": "dpo"})
    assert outcome.message == (
        "The job failed due to an invalid training file. Input file file-abc is in the fine-tune-chat format, but the "
        "specified fine-tuning job is not using 'supervised' as the training method (provided method=dpo). Method dpo "
        "accepts rows of the format preference (input, non_preferred_output, preferred_output or input, "
        "non_preferred_completion, preferred_completion or chosen, rejected)."
    )
