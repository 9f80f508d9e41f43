"""prepare on rows that are as they should be: the arrays hold what transformers would make of them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from tests.worker import bases
from tests.worker.children import ROOT
from tests.worker.prepared import jsonl, prepare
from worker.shared.arrays import load_rows

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4, of course."},
    ]
}


def test_conversations_become_the_tokens_that_transformers_makes(smollm2: Path, tmp_path: Path) -> None:
    tricky = {"role": "user", "content": " Größe 😀\n\n  <|im_end|> 1234567890 "}
    rows = [CHAT, {"messages": [tricky, *CHAT["messages"][1:]]}]
    outcome = prepare(tmp_path / "run", smollm2, jsonl(*rows))
    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2, local_files_only=True)
    for row, (tokens_T, loss_weights_T) in zip(rows, load_rows(outcome.folder / "data/train.safetensors"), strict=True):
        assert tokens_T.tolist() == tokenizer.apply_chat_template(row["messages"])["input_ids"]
        assert tokenizer.decode(tokens_T[loss_weights_T > 0]) == "4, of course.<|im_end|>"


@pytest.mark.parametrize("tokenizer", [bases.byte_level, bases.sentence_piece])
def test_documents_have_the_tokenizers_beginning_and_an_end(tmp_path: Path, tokenizer: Any) -> None:
    base = bases.base(tmp_path / "base", tokenizer=tokenizer(), eos="</s>", template=None)
    texts = ["Attune is a service.", "  two  spaces\n", "😀"]
    outcome = prepare(tmp_path / "run", base, jsonl(*({"text": text} for text in texts)))
    theirs: Any = AutoTokenizer.from_pretrained(base, local_files_only=True)
    end = theirs.convert_tokens_to_ids("</s>")
    for text, (tokens_T, loss_weights_T) in zip(
        texts, load_rows(outcome.folder / "data/train.safetensors"), strict=True
    ):
        assert tokens_T.tolist() == [*theirs(text)["input_ids"], end]
        assert loss_weights_T[1:].all()  # the first token is predicted from nothing


@pytest.mark.parametrize("tokenizer", [bases.byte_level, bases.sentence_piece])
def test_prompts_have_the_tokens_that_they_have_alone(tmp_path: Path, tokenizer: Any) -> None:
    base = bases.base(tmp_path / "base", tokenizer=tokenizer(), eos="</s>", template=None)
    pairs = [("The work", "er trains."), ("Train:", " yes"), ("", "only"), ("a ", "b"), ("row", "")]
    outcome = prepare(tmp_path / "run", base, jsonl(*({"prompt": p, "completion": c} for p, c in pairs)))
    theirs: Any = AutoTokenizer.from_pretrained(base, local_files_only=True)
    rows = list(load_rows(outcome.folder / "data/train.safetensors"))
    for (prompt, completion), (tokens_T, loss_weights_T) in zip(pairs, rows, strict=True):
        given = theirs(prompt)["input_ids"]
        assert tokens_T[: len(given)].tolist() == given
        assert (loss_weights_T > 0).tolist() == [False] * len(given) + [True] * (len(tokens_T) - len(given))
        assert theirs.decode(tokens_T, skip_special_tokens=True).strip() == (prompt + completion).strip()
        assert tokens_T[-1] == theirs.convert_tokens_to_ids("</s>")


def test_report_counts_what_the_arrays_hold(tmp_path: Path) -> None:
    outcome = prepare(tmp_path / "run", bases.base(tmp_path / "base"), jsonl(CHAT, CHAT), jsonl(CHAT))
    assert outcome.report["ok"]
    assert [file["name"] for file in outcome.report["files"]] == ["train", "validation"]
    report, rows = outcome.report["files"][0], load_rows(outcome.folder / "data/train.safetensors")
    assert (report["format"], report["rows"]) == ("chat", 2)
    assert (report["tokens"], report["longest_row"]) == (len(rows.tokens), int(rows.lengths.max()))
    assert report["supervised_tokens"] == np.count_nonzero(rows.loss_weights)
    assert outcome.progress[-1] == {"type": "progress", "file": "validation", "rows": 1}


def test_rows_do_not_depend_on_the_batch_they_are_in(tmp_path: Path) -> None:
    base = bases.base(tmp_path / "base")
    many = prepare(tmp_path / "many", base, jsonl(*({"text": f"row {n} " * (n % 7 + 1)} for n in range(1001))))
    last = prepare(tmp_path / "last", base, jsonl({"text": "row 1000 " * 7}))
    many_rows, last_rows = (load_rows(outcome.folder / "data/train.safetensors") for outcome in (many, last))
    assert len(many_rows) == 1001
    assert many_rows.sequence(1000)[0].tolist() == last_rows.sequence(0)[0].tolist()


def test_private_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """The libraries take 110 MB, a batch at most 100 MB, and these arrays 70 MB."""
    line = jsonl({"messages": [{"role": "user", "content": "row " * 200}, CHAT["messages"][-1]]})
    outcome = prepare(tmp_path / "run", bases.base(tmp_path / "base"), line * 15_000, memory_bytes=270_000_000)
    assert outcome.report["ok"]
    assert (tmp_path / "run/data/train.safetensors").stat().st_size > 70_000_000


def test_windows_files_are_read(tmp_path: Path) -> None:
    content = (
        b"\xef\xbb\xbf" + jsonl(CHAT).replace(b"\n", b"\r\n") + b"\r\n" + jsonl({"messages": CHAT["messages"][1:]})
    )
    outcome = prepare(tmp_path / "run", bases.base(tmp_path / "base"), content)
    assert outcome.report["ok"]
    assert outcome.report["files"][0]["rows"] == 2
    assert [(finding["line"], finding["code"]) for finding in outcome.findings] == [(2, "blank_line")]


def test_prepare_needs_neither_torch_nor_transformers() -> None:
    code = "import worker.prepare, sys; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "[]\n"
