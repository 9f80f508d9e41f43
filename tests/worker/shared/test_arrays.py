"""Rows on disk: written in pieces, mapped, cut, split."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from worker.shared import arrays
from worker.shared.arrays import ArraysError, Rows, load_rows, save_rows, split


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Three rows: 0 1 2 | 3 4 5 | 6 7 8 9."""
    save_rows(
        tmp_path / "rows.safetensors",
        np.arange(10, dtype=np.int32),
        np.array([1, 1, 0, 0, 0, 1, 1, 0, 0, 0.5], np.float32),
        np.array([0, 3, 6, 10]),
    )
    return tmp_path / "rows.safetensors"


def test_the_file_is_plain_safetensors(path: Path) -> None:
    found = load_file(path)
    assert {name: str(array.dtype) for name, array in found.items()} == {
        "tokens": "int32",
        "loss_weights": "float32",
        "starts": "int64",
    }
    assert found["tokens"].tolist() == list(range(10))


def test_large_arrays_are_written_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CHUNK_ELEMENTS", 3)
    rows = load_rows(path)
    again = path.with_name("again.safetensors")
    save_rows(again, rows.tokens, rows.loss_weights, np.array([0, 3, 6, 10]))
    assert again.read_bytes() == path.read_bytes()


def test_cutting_drops_the_rows_left_without_a_supervised_token(path: Path) -> None:
    rows, dropped, truncated = load_rows(path).truncate(2)
    # Of the first row 0 and 1 are left, and 1 is supervised. A first token (6) is predicted from nothing.
    assert [tokens_T.tolist() for tokens_T, _ in rows] == [[0, 1]]
    assert (dropped, truncated) == (2, 1)


def test_long_rows_can_be_left_out_instead_of_cut(path: Path) -> None:
    rows = load_rows(path)
    assert rows.overlong(3).tolist() == [2]
    kept, dropped, truncated = rows.truncate(3, drop=True)
    assert (kept.lengths.tolist(), dropped, truncated) == ([3, 3], 1, 0)


@pytest.mark.parametrize("chunk", [1, 3, 64, 1 << 20])
def test_supervised_tokens_are_counted_chunk_by_chunk(chunk: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CHUNK_ELEMENTS", chunk)
    rng = np.random.default_rng(seed)
    bounds = np.concatenate([[0], np.cumsum(rng.integers(0, 9, 40))])
    weights = rng.choice([0.0, 0.5, 1.0], bounds[-1]).astype(np.float32)
    rows = Rows(np.zeros(bounds[-1], np.int32), weights, bounds[:-1], bounds[1:], width=2).take(rng.permutation(20))
    ends = np.minimum(rows.ends, rows.starts + 5)
    expected = [int((weights[start + 1 : end] > 0).sum()) for start, end in zip(rows.starts, ends, strict=True)]
    assert rows.supervised_before(ends).tolist() == expected


def test_rows_short_enough_stay_as_they_are(path: Path) -> None:
    rows, dropped, truncated = load_rows(path).truncate(4)
    assert rows.lengths.tolist() == [3, 3, 4]
    assert (dropped, truncated) == (0, 0)


def test_a_split_is_disjoint_complete_and_repeatable(path: Path) -> None:
    rows = load_rows(path)
    train, validation = split(rows, 0.3, seed=1)
    assert (len(train), len(validation)) == (2, 1)
    assert sorted([*train.starts, *validation.starts]) == rows.starts.tolist()
    assert split(rows, 0.3, seed=1)[1].starts.tolist() == validation.starts.tolist()
    assert len(split(rows, 0.0, seed=1)[1]) == 0


def test_other_files_are_refused(tmp_path: Path, path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ArraysError):
        load_rows(cut)
    cut.write_bytes(b"no")
    with pytest.raises(ArraysError):
        load_rows(cut)


def test_a_labelled_answer_that_is_cut_away_whole_is_dropped(tmp_path: Path) -> None:
    """Of kto: answers, each marked good or bad. A classifier's texts have no supervised tokens, and all are kept."""
    weights = np.array([0, 0, 1, 0, 1, 1], np.float32)
    for name, values, kept in (("kto", weights, [1]), ("classes", 0 * weights, [0, 1])):
        path, starts = tmp_path / name, np.array([0, 3, 6])
        save_rows(path, np.arange(6, dtype=np.int32), values, starts, labels=np.ones((2, 1), np.float32))
        rows, dropped, _ = load_rows(path).truncate(2)
        assert (rows.numbers.tolist(), dropped) == (kept, 2 - len(kept))


def test_rows_from_one_row_of_the_file_stay_on_one_side(tmp_path: Path) -> None:
    """kto makes two of a pair. One of them may be dropped before: the file's rows are told by where they stood."""
    save_rows(tmp_path / "r", np.arange(40), np.ones(40), np.arange(0, 41, 2), together=2)
    rows = load_rows(tmp_path / "r").take(np.delete(np.arange(20), 5))
    train, validation = split(rows, 0.3, seed=1)
    sides = [{int(number) // 2 for number in part.numbers} for part in (train, validation)]
    assert (len(sides[0]), len(sides[1]), sides[0] & sides[1]) == (7, 3, set())


def test_the_rows_that_keep_a_supervised_token_are_those_of_a_loop(seed: int) -> None:
    """Also with sequences of no token and of one, at both ends of the file."""
    rng = np.random.default_rng(seed)
    lengths = np.array([0, 1, *rng.integers(0, 6, 200), 1, 0])
    ends = np.cumsum(lengths)
    weights = (rng.random(ends[-1]) < 0.3).astype(np.float32)
    rows = Rows(np.zeros(ends[-1], np.int32), weights, ends - lengths, ends)
    kept, _, _ = rows.truncate(3)
    cuts = [weights[start : min(end, start + 3)] for start, end in zip(rows.starts, ends, strict=True)]
    assert kept.numbers.tolist() == [row for row, cut in enumerate(cuts) if cut[1:].any()]
