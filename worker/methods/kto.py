"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306)."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from api.spec.methods.kto import KtoOptions
from worker.engine.generation.sample_answers import GeneratedAnswer
from worker.engine.model.batches import MicroBatch
from worker.engine.objective import Floats, Metrics, Objective, answer_sums
from worker.shared.arrays import Rows


def prospect_losses(
    ratios_R: torch.Tensor, desirable_R: torch.Tensor, z0: torch.Tensor, options: KtoOptions
) -> torch.Tensor:
    """[R], of log-ratios log π(y|x) - log π_ref(y|x): λ_D (1 - σ(β (ratio - z0))) for a desirable answer,
    λ_U (1 - σ(β (z0 - ratio))) for another; z0 estimates KL(π ‖ π_ref) and gets no gradient."""
    signs_R = 2 * desirable_R - 1
    weights_R = torch.where(desirable_R > 0.5, options.desirable_weight, options.undesirable_weight)
    return weights_R * (1 - torch.sigmoid(options.beta * signs_R * (ratios_R - z0)))


class Kto(Objective):
    """z0 is estimated from mismatched pairs: each prompt with the answer to another, drawn once.

    A row then has two sequences, its own and the mismatched one; only the first is learnt from.
    """

    has_reference = True

    def lay_out(self, rows: Rows) -> Rows:
        return with_mismatched(rows, self.recipe.seed, self.recipe.max_length)

    def reference(self, rows: Rows) -> Floats:
        return self.answer_logprobs(rows)

    def updates(self, rows: Rows, step: int) -> Iterator[Rows]:
        yield self._with_z0(rows)

    def evaluate(self, rows: Rows) -> dict[str, float]:
        return super().evaluate(self._with_z0(rows))

    def show_answers(self, rows: Rows) -> list[GeneratedAnswer]:
        """To rows whose own answers are good."""
        assert rows.labels is not None
        return super().show_answers(rows.take(np.flatnonzero(rows.labels[:, 0] > 0.5)))

    def _with_z0(self, rows: Rows) -> Rows:
        """The rows' own sequences, and max(0, mean log-ratio of the mismatched ones) under the policy as it is now."""
        ratios_R = self.answer_logprobs(rows.column(1))[:, 0] - rows.per_row["reference"][:, 1]
        z0 = max(0.0, float(ratios_R.mean()))
        self.observed = {"kl": z0}
        own = rows.column(0)
        assert rows.labels is not None, "rows for kto are marked good or bad"
        good_R = rows.labels[:, 0] > 0.5
        per_row = {
            "reference": rows.per_row["reference"][:, 0],
            "z0": np.full(len(rows), z0, np.float32),
            "share": 1 / np.where(good_R, good_R.sum(), (~good_R).sum()).astype(np.float32),
        }
        return replace(own, per_row=per_row)

    def total(self, rows: Rows) -> float:
        return float(len(rows))

    def loss(self, batch: MicroBatch, total: float) -> tuple[torch.Tensor, Metrics]:
        assert batch.labels is not None, "rows for kto are marked good or bad"
        options: KtoOptions = self.options
        desirable_R = batch.labels[:, 0]
        sums_R = answer_sums(self.model.token_scores(batch).smoothed_logprobs, batch, mean=False)
        ratios_R = sums_R - batch.per_row["reference"]
        losses_R = prospect_losses(ratios_R, desirable_R, batch.per_row["z0"], options)
        # Means over the good answers, and over the others.
        rewards_R = options.beta * ratios_R.detach() * batch.per_row["share"]
        return losses_R.sum() / total, {
            "rewards_desirable": (rewards_R * desirable_R).sum(),
            "rewards_undesirable": (rewards_R * (1 - desirable_R)).sum(),
        }


def with_mismatched(rows: Rows, seed: int, max_length: int) -> Rows:
    """The rows, each with a second sequence: its prompt, and the answer of the next row in a drawn circle, cut where
    both together are longer than any row may be."""
    circle_R = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))
    partners = dict(zip(circle_R.tolist(), np.roll(circle_R, -1).tolist(), strict=True))
    tokens, weights = [], []
    for row in range(len(rows)):
        own_T, own_weights_T = rows.sequence(row)
        other_T, other_weights_T = rows.sequence(partners[row])
        prompt, begin = _answer_start(own_weights_T), _answer_start(other_weights_T)
        tokens += [own_T, np.concatenate([own_T[:prompt], other_T[begin:]])[:max_length]]
        mixed_T = np.concatenate([own_weights_T[:prompt], other_weights_T[begin:]])
        weights += [own_weights_T, mixed_T[:max_length]]
    ends = np.cumsum([len(each) for each in tokens])
    return replace(
        rows,
        tokens=np.concatenate(tokens),
        loss_weights=np.concatenate(weights),
        starts=np.concatenate([[0], ends[:-1]]),
        ends=ends,
        width=2,
    )


def _answer_start(weights_T: np.ndarray[tuple[int], np.dtype[np.float32]]) -> int:
    """The first supervised token after the first one, which is predicted from nothing."""
    return 1 + int(np.flatnonzero(weights_T[1:])[0])
