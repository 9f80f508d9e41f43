"""Users' patterns, read by an engine whose time has a bound."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.spec import patterns
from tests.hostile import CATASTROPHIC, UNUSABLE

NAMES = tuple(
    f"model.layers.{layer}.{block}.{name}"
    for layer in (0, 1, 10, 11)
    for block, name in (("self_attn", "q_proj"), ("self_attn", "v_proj"), ("mlp", "up_proj"))
)


@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_what_a_backtracking_engine_never_finishes_matches_nothing_at_once(pattern: str) -> None:
    patterns.require([pattern])
    assert patterns.full_matches(pattern, NAMES) == frozenset()
    assert patterns.first_match((pattern,), NAMES) == {}


@pytest.mark.parametrize(("pattern", "reason"), UNUSABLE.items())
def test_what_cannot_be_used_is_refused_wherever_it_is_read(pattern: str, reason: str) -> None:
    for read in (
        lambda: patterns.require([pattern]),
        lambda: patterns.full_matches(pattern, NAMES),
        lambda: patterns.first_match((pattern,), NAMES),
    ):
        with pytest.raises(patterns.BadPattern, match=re.escape(reason)):
            read()


def test_many_patterns_share_one_limit() -> None:
    patterns.require([f"layers.{number}.self_attn.q_proj" for number in range(256)])
    with pytest.raises(patterns.BadPattern, match="together are too large"):
        patterns.require([f"[a-z]{{{number}}}x" for number in range(500, 628)])


PIECES = st.sampled_from(["q", "v", "_proj", "model", "layers", r"\.", ".", ".*", "[01]", "1", "(q|v)", "(up|q)?", "+"])


@given(st.lists(PIECES, min_size=1, max_size=5).map("".join))
def test_plain_patterns_mean_what_they_mean_to_peft(pattern: str) -> None:
    try:
        ours = patterns.full_matches(pattern, NAMES), patterns.first_match((pattern,), NAMES).keys()
        theirs = re.compile(pattern), re.compile(rf"(.*\.)?({pattern})$")
    except (patterns.BadPattern, re.error):
        return
    assert ours[0] == {name for name in NAMES if theirs[0].fullmatch(name)}
    assert ours[1] == {name for name in NAMES if theirs[1].match(name)}


def test_the_first_pattern_that_fits_counts() -> None:
    found = patterns.first_match((r"layers\.1\..*", "q_proj", ".*"), NAMES)
    assert found["model.layers.1.self_attn.q_proj"] == r"layers\.1\..*"
    assert found["model.layers.10.self_attn.q_proj"] == "q_proj"
    assert found["model.layers.10.mlp.up_proj"] == ".*"
