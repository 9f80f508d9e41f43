"""The table of results in docs/benchmarks.md: medians, ranges, and whether each claim holds."""

import statistics
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from benchmarks.relations.results import Figures, Results

BEGIN, END = "<!-- relations: written by python -m benchmarks.relations --table -->", "<!-- relations end -->"
HEADER = "| relation | measured, median (range) | wanted | seeds |\n|---|---|---|---|\n"
NOT_MEASURED = "not measured"
Test = Callable[[float], bool]


def write(results: Results, document: Path) -> None:
    """Replace the table in the document, keeping its lines for which there are no results."""
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    old_table, _, after = rest.partition(END)
    assert before != text, f"{document} has no line {BEGIN}"
    old_lines = {_relation(line): line for line in old_table.splitlines() if line.startswith("| ")}
    lines = (old_lines.get(_relation(line), line) if NOT_MEASURED in line else line for line in _lines(results))
    table = HEADER + "".join(f"{line}\n" for line in lines)
    document.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{after}", encoding="utf-8")


def _relation(line: str) -> str:
    return line.split("|")[1].strip()


def _lines(results: Results) -> Iterator[str]:
    yield from _techniques(results)
    yield from _rewards(results)


def _techniques(results: Results) -> Iterator[str]:
    pair = _pairs(results)
    yield _line(
        "BERT: points of accuracy above scratch", pair("MiniLM full", "MiniLM from scratch", _points), "≥ 5", "{:.1f}"
    )
    yield _line("Bottleneck: points below full", pair("MiniLM full", "MiniLM bottleneck", _points), "≤ 1", "{:.1f}")
    shares = [100 * figures["trained"] / figures["parameters"] for figures in results.of("MiniLM bottleneck")]
    yield _line("Bottleneck: % of the weights trained", shares, "≤ 4", "{:.2f}")
    yield _line("LoRA: held-out loss above full's, %", pair("lora", "full", _percent_above), "≤ 2", "{:+.1f}")
    yield _line("LoRA: points of token accuracy below full", pair("full", "lora", _points), "≤ 1", "{:.2f}")
    yield _line("LoRA, rank 8: times fewer trained weights", pair("full", "lora", _times("trained")), "≥ 50", "{:.1f}")
    as_published = pair("full", "lora", _times("published_bytes"))
    yield _line("LoRA, rank 8: times smaller files, as published", as_published, "≥ 50", "{:.1f}")
    yield _line("LoRA: peak memory of full, times LoRA's", pair("full", "lora", _times("peak_bytes")), "≥ 1", "{:.2f}")
    yield _line("QLoRA: held-out loss above LoRA's, %", pair("qlora nf4", "lora", _percent_above), "≤ 2", "{:+.1f}")
    before = pair("untrained nf4", "untrained", _percent_above)
    yield _line("… before training, cost of four bits alone, %", before, "≥ 0", "{:+.1f}")
    smaller = [figures["bfloat16_bytes"] / figures["quantised_bytes"] for figures in results.of("qlora nf4")]
    yield _line("QLoRA: times smaller linear weights", smaller, "≥ 3.5", "{:.2f}")
    yield _line("QLoRA: loss of nf4 above fp4's, %", pair("qlora nf4", "qlora fp4", _percent_above), "≤ 0", "{:+.1f}")
    shares = [100 * figures["trained"] / figures["parameters"] for figures in results.of("cards prefix")]
    yield _line("Prefix: % of the weights trained", shares, "≤ 0.5", "{:.2f}")
    share = pair("cards prefix", "cards full", lambda ours, full: 100 * ours["accuracy"] / full["accuracy"])
    yield _line("Prefix: % of full's token accuracy", share, "≥ 90", "{:.1f}")


def _rewards(results: Results) -> Iterator[str]:
    pair = _pairs(results)
    pairs = [100 * figures["accuracy"] for figures in results.of("reward model")]
    yield _line("Reward model: % of held-out pairs right", pairs, "≥ 90", "{:.1f}")
    gains = [figures["learnt_reward_after"] - figures["learnt_reward_before"] for figures in results.of("ppo")]
    yield _line("PPO: reward model's score raised by", gains, "≥ 0", "{:.2f}")
    yield _line("PPO: known reward raised by", pair("ppo", "supervised", _gain("known_reward")), "≥ 0", "{:.3f}")
    yield _line("PPO: divergence, nats an answer", [figures["kl"] for figures in results.of("ppo")], "≤ 10", "{:.2f}")
    wins = [100 * figures["wins"] for figures in results.of("ppo")]
    yield _line("PPO: % of held-out prompts won from supervised", wins, "≥ 70", "{:.1f}")
    yield _line("DPO: known reward above PPO's, at PPO's divergence", list(_dpo_above_ppo(results)), "≥ 0", "{:+.3f}")
    yield _line("DPO: times faster than PPO", pair("ppo", "dpo", _times("seconds")), "≥ 1", "{:.1f}")
    yield _line("GRPO: grader's score raised by", pair("grpo", "supervised", _gain("grade")), "≥ 0", "{:.3f}")


def _dpo_above_ppo(results: Results) -> Iterator[float]:
    """Yield, seed by seed, how far DPO's reward at PPO's divergence is above PPO's.

    DPO's reward is interpolated between the supervised model and the checkpoints. If no checkpoint diverges as much as
    PPO, it is the reward of the furthest one.
    """
    for before, ppo, dpo in zip(*(results.of(name) for name in ("supervised", "ppo", "dpo")), strict=False):
        line = sorted(
            [(0.0, before["known_reward"]), *((figures["kl"], figures["known_reward"]) for figures in dpo["points"])]
        )
        reward = line[-1][1]
        for (left, low), (right, high) in pairwise(line):
            if left <= ppo["kl"] <= right:
                reward = low + (high - low) * (ppo["kl"] - left) / max(right - left, 1e-9)
        yield reward - ppo["known_reward"]


def _line(relation: str, values: list[float], wanted: str, form: str) -> str:
    if not values:
        return f"| {relation} | {NOT_MEASURED} | {wanted} | |"
    values = [round(value, 4) for value in values]  # accuracies are float32 means: 18 of 20 is slightly below 0.9
    sign, limit = wanted.split()
    holds: Test = (lambda value: value >= float(limit)) if sign == "≥" else (lambda value: value <= float(limit))
    median = statistics.median(values)
    cell = form.format(median)
    if max(values) > min(values):
        cell += f" ({form.format(min(values))} to {form.format(max(values))})"
    verdict = f"{sum(map(holds, values))} of {len(values)}"
    return f"| {relation} | {cell} | {wanted} | {verdict if holds(median) else f'**missed**, {verdict}'} |"


def _pairs(results: Results) -> Callable[[str, str, Callable[[Figures, Figures], float]], list[float]]:
    """Return a function that compares two variants seed by seed."""

    def compare(ours: str, theirs: str, difference: Callable[[Figures, Figures], float]) -> list[float]:
        other = {figures["seed"]: figures for figures in results.of(theirs)}
        return [difference(figures, other[figures["seed"]]) for figures in results.of(ours) if figures["seed"] in other]

    return compare


def _points(ours: Figures, theirs: Figures) -> float:
    return float(100 * (ours["accuracy"] - theirs["accuracy"]))


def _percent_above(ours: Figures, theirs: Figures) -> float:
    return float(100 * (ours["loss"] / theirs["loss"] - 1))


def _times(name: str) -> Callable[[Figures, Figures], float]:
    return lambda ours, theirs: float(ours[name] / theirs[name])


def _gain(name: str) -> Callable[[Figures, Figures], float]:
    return lambda ours, theirs: float(ours[name] - theirs[name])
