"""The comparison of ours with each peer: medians over the rounds, and the table and JSON of them."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = Mapping[str, float]

METRICS = {
    "tokens_per_s": "useful tokens/s",
    "matmul_share": "% of the matmul rate",
    "first_step_s": "s to the first step",
    "whole_s": "s for the whole job",
    "peak_mib": "MiB, peak memory",
    "checkpoint_mib": "MiB of a checkpoint",
    "checkpoint_s": "s for a checkpoint",
    "heldout_loss": "held-out loss",
}
MORE_IS_BETTER = frozenset({"tokens_per_s", "matmul_share"})
AGREEMENT = 0.02
"""Relative difference of two held-out losses that always counts as noise. A larger one counts as noise if the rounds of
one contestant differ as much."""


@dataclass
class Measured:
    """The measurements of one workload in all rounds."""

    workload: str
    title: str
    ours: list[Figures] = field(default_factory=list)
    peers: dict[str, list[Figures]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    """Peers without figures, and why."""


def comparisons(measured: Measured) -> list[dict[str, Any]]:
    """Return one object for each peer and metric.

    `ratio` is how many times better Attune is: below 1, the peer is better. It is None if the peer has no value, or if
    the held-out losses disagree; `void` then gives the reason. `spread` is [lowest, highest] over the rounds.
    """
    rows = []
    for peer in [*measured.peers, *measured.absent]:
        theirs = measured.peers.get(peer, [])
        void = measured.absent.get(peer) or disagreement(measured.ours, theirs)
        for metric in METRICS:
            ours = [figures[metric] for figures in measured.ours if metric in figures]
            values = [figures[metric] for figures in theirs if metric in figures]
            if not ours:
                continue
            row: dict[str, Any] = {
                "workload": measured.workload,
                "metric": metric,
                "ours": statistics.median(ours),
                "peer": peer,
                "peer_value": statistics.median(values) if values else None,
                "ratio": None,
                "rounds": len(values),
                "ours_spread": [min(ours), max(ours)],
                "peer_spread": [min(values), max(values)] if values else None,
            }
            if void:
                row["void"] = void
            elif values and metric != "heldout_loss":
                row["ratio"] = advantage(metric, row["ours"], row["peer_value"])
            rows.append(row)
    return rows


def advantage(metric: str, ours: float, theirs: float) -> float | None:
    """Return how many times better ours is than theirs; None if a value is 0."""
    better, worse = (ours, theirs) if metric in MORE_IS_BETTER else (theirs, ours)
    return better / worse if worse else None


def disagreement(ours: Sequence[Figures], theirs: Sequence[Figures]) -> str | None:
    """Return why the two trainings cannot be compared; None if their held-out losses agree within noise.

    Noise is the largest range over the rounds, whose seeds differ, or AGREEMENT if that is larger.
    """
    losses = [[figures["heldout_loss"] for figures in each if "heldout_loss" in figures] for each in (ours, theirs)]
    if not all(losses):
        return None
    middle = [statistics.median(each) for each in losses]
    noise = max(AGREEMENT * middle[0], *(max(each) - min(each) for each in losses))
    if abs(middle[0] - middle[1]) <= noise:
        return None
    return f"held-out losses differ: {middle[0]:.3f} and {middle[1]:.3f}, with a noise of {noise:.3f}"


def write_json(path: Path, everything: Iterable[Measured]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for measured in everything for row in comparisons(measured)]
    path.write_text(json.dumps(rows, indent=1) + "\n")


def markdown(measured: Measured) -> str:
    """Return the workload's table: a column for ours and each peer, with medians, ranges and ratios."""
    rows = comparisons(measured)
    lines = [f"**{measured.title}**, {len(measured.ours)} rounds", ""]
    lines += [f"| | Attune | {' | '.join(measured.peers)} |", f"|---{'|---' * (len(measured.peers) + 1)}|"]
    for metric, name in METRICS.items():
        cells = {row["peer"]: row for row in rows if row["metric"] == metric}
        if cells or any(metric in figures for figures in measured.ours):
            ours = [figures[metric] for figures in measured.ours]
            theirs = [_cell(cells[peer]) for peer in measured.peers]
            lines.append(
                f"| {name} | {_range(statistics.median(ours), [min(ours), max(ours)])} | {' | '.join(theirs)} |"
            )
    voids = {row["peer"]: row["void"] for row in rows if "void" in row}
    return "\n".join([*lines, "", *(f"- {peer}: {why}" for peer, why in voids.items())])


def _cell(row: Mapping[str, Any]) -> str:
    if row["peer_value"] is None:
        return ""
    times = "" if row["ratio"] is None else f" · {row['ratio']:.2f}×"
    return _range(row["peer_value"], row["peer_spread"]) + (" · void" if "void" in row else times)


def _range(median: float, spread: Sequence[float]) -> str:
    middle, low, high = (f"{value:.3g}" if value < 1000 else f"{value:,.0f}" for value in (median, *spread))
    return middle if low == high else f"{middle} ({low} to {high})"
