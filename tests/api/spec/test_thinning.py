from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from api.spec.thinning import Columns

LOSSES = st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9)), min_size=1, max_size=200)


def points_of(losses: list[float | None]) -> list[dict[str, object]]:
    return [{"step": step, "train_loss": loss, "valid_loss": -step} for step, loss in enumerate(losses)]


def downsample(points: list[dict[str, object]], most: int) -> list[dict[str, object]]:
    return [points[index] for index in Columns(points).chosen(most)]


@given(LOSSES, st.integers(2, 250))
def test_it_keeps_both_ends_makes_nothing_up_and_is_no_longer_than_asked(losses: list[float | None], most: int) -> None:
    points = points_of(losses)
    thinned = downsample(points, most)
    assert len(thinned) <= most
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert thinned == [point for point in points if point in thinned]


@given(LOSSES, st.integers(8, 250))
def test_the_extremes_of_every_series_stay(losses: list[float | None], most: int) -> None:
    points = points_of(losses)
    thinned = downsample(points, most)
    for name in ("train_loss", "valid_loss"):
        before, after = ([cast(float, p[name]) for p in each if p[name] is not None] for each in (points, thinned))
        assert not before or (min(before), max(before)) == (min(after), max(after))


def test_a_short_spike_is_seen_in_its_place() -> None:
    points = points_of([1.0] * 10_000)
    points[2000]["train_loss"], points[7000]["train_loss"], points[7001]["train_loss"] = 50.0, 40.0, 0.1
    thinned = {cast(int, point["step"]): point["train_loss"] for point in downsample(points, 100)}
    assert (thinned[2000], thinned[7000], thinned[7001]) == (50.0, 40.0, 0.1)
    assert max(right - left for left, right in zip(sorted(thinned), sorted(thinned)[1:], strict=False)) < 500


@given(st.lists(st.floats(-1e9, 1e9), min_size=100, max_size=600), st.integers(20, 60), st.integers(1, 64))
def test_no_point_to_choose_is_lost_by_choosing_as_points_come_in(
    losses: list[float], most: int, at_a_time: int
) -> None:
    points = points_of(list(losses))
    kept: list[dict[str, object]] = []
    for start in range(0, len(points), at_a_time):
        kept += points[start : start + at_a_time]
        kept = [kept[index] for index in Columns(kept).chosen(most, again=True)]
    later = Columns(points).chosen(most, again=True)
    assert {points[index]["step"] for index in later} <= {point["step"] for point in kept}


def test_room_that_coinciding_extremes_leave_is_used() -> None:
    points: list[dict[str, object]] = [
        {"step": step, "train_loss": -step, **{f"metric{n}": step for n in range(9)}} for step in range(64)
    ]
    assert len(downsample(points, 20)) >= 10
