"""Kahneman-Tversky optimization (Ethayarajh et al. 2024, arXiv:2402.01306)."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from api.spec.methods.kto import KtoOptions
from worker.engine.generation.sample_answers import GeneratedAnswer
from worker.engine.model.batches import MicroBatch
from worker.engine.objective import EvaluationMetrics, Floats, Metrics, Objective, reduce_by_sequence
from worker.shared.arrays import Rows


def prospect_losses(
    log_ratios_R: torch.Tensor, desirable_R: torch.Tensor, z0: torch.Tensor, options: KtoOptions
) -> torch.Tensor:
    """Return the loss of each answer, [R]: λ_D (1 - σ(β (r - z0))) if it is desirable, else λ_U (1 - σ(β (z0 - r))).

    `log_ratios_R`: r = log π(y|x) - log π_ref(y|x), [R]. `desirable_R`: 1.0 or 0.0, [R]. `z0`: the reference point, an
    estimate of KL(π ‖ π_ref); it gets no gradient, and only controls how soon the loss saturates.
    """
    signs_R = 2 * desirable_R - 1
    weights_R = torch.where(desirable_R > 0.5, options.desirable_weight, options.undesirable_weight)
    return weights_R * (1 - torch.sigmoid(options.beta * signs_R * (log_ratios_R - z0)))


class Kto(Objective):
    """The reference point z0 is estimated from mismatched pairs: each prompt with the answer to another prompt.

    The paper mismatches answers within a batch. Here the pairs are drawn once over all rows, so the reference model's
    log-probabilities of the pairs are computed once, too. A row therefore has two sequences: its own prompt and answer,
    and its mismatched pair. Only the first enters the loss.
    """

    options: KtoOptions

    def transform_rows(self, rows: Rows) -> Rows:
        return with_mismatched(rows, self.recipe.seed, self.recipe.max_length)

    def reference(self, rows: Rows) -> Floats:
        return self.sequence_logprobs(rows)

    def updates(self, rows: Rows, step: int) -> Iterator[Rows]:
        yield self._with_z0(rows)

    def evaluate(self, rows: Rows) -> EvaluationMetrics:
        return super().evaluate(self._with_z0(rows))

    def sample_answers(self, rows: Rows, max_tokens: int) -> list[GeneratedAnswer]:
        """Return answers to prompts whose own answers are desirable, so that those answers can be shown as
        references."""
        assert rows.labels is not None
        return super().sample_answers(rows.take(np.flatnonzero(rows.labels[:, 0] > 0.5)), max_tokens)

    def _with_z0(self, rows: Rows) -> Rows:
        """Return the rows' own sequences, each with the same z0: max(0, mean log-ratio of the mismatched pairs), under
        the current policy. z0 is estimated over the whole step, so that it does not depend on the size of the
        micro-batches."""
        mismatched_R = self.sequence_logprobs(rows.column(1))[:, 0] - rows.per_row["reference"][:, 1]
        # A divergence is never negative, though its estimate from few answers can be.
        z0 = max(0.0, float(mismatched_R.mean()))
        self.extra_metrics = {"kl": z0}
        assert rows.labels is not None, "KTO rows are labeled desirable or undesirable"
        desirable_R = rows.labels[:, 0] > 0.5
        per_row = {
            "reference": rows.per_row["reference"][:, 0],
            "z0": np.full(len(rows), z0, np.float32),
            # 1 / (number of rows with the same label), for metrics that are means over each label's rows.
            "label_share": 1 / np.where(desirable_R, desirable_R.sum(), (~desirable_R).sum()).astype(np.float32),
        }
        return replace(rows.column(0), per_row=per_row)

    def normalizer(self, rows: Rows) -> float:
        return float(len(rows))

    def loss(self, batch: MicroBatch, normalizer: float) -> tuple[torch.Tensor, Metrics]:
        assert batch.labels is not None, "KTO rows are labeled desirable or undesirable"
        desirable_R = batch.labels[:, 0]
        policy_R = reduce_by_sequence(self.model.token_scores(batch).smoothed_logprobs, batch, mean=False)
        log_ratios_R = policy_R - batch.per_row["reference"]
        losses_R = prospect_losses(log_ratios_R, desirable_R, batch.per_row["z0"], self.options)
        rewards_R = self.options.beta * log_ratios_R.detach() * batch.per_row["label_share"]
        return losses_R.sum() / normalizer, {
            "rewards_desirable": (rewards_R * desirable_R).sum(),
            "rewards_undesirable": (rewards_R * (1 - desirable_R)).sum(),
        }


def with_mismatched(rows: Rows, seed: int, max_length: int) -> Rows:
    """Return the rows with a second sequence each: the row's prompt and another row's answer, cut to `max_length`.

    The partners form one random cycle, so each answer is mismatched exactly once and never with its own prompt.
    """
    cycle_R = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))
    partners = dict(zip(cycle_R.tolist(), np.roll(cycle_R, -1).tolist(), strict=True))
    tokens, weights = [], []
    for row in range(len(rows)):
        own_T, own_weights_T = rows.sequence(row)
        other_T, other_weights_T = rows.sequence(partners[row])
        own_start, other_start = _answer_start(own_weights_T), _answer_start(other_weights_T)
        mismatched_T = np.concatenate([own_T[:own_start], other_T[other_start:]])
        mismatched_weights_T = np.concatenate([own_weights_T[:own_start], other_weights_T[other_start:]])
        tokens += [own_T, mismatched_T[:max_length]]
        weights += [own_weights_T, mismatched_weights_T[:max_length]]
    ends = np.cumsum([len(sequence_T) for sequence_T in tokens])
    return replace(
        rows,
        tokens=np.concatenate(tokens),
        loss_weights=np.concatenate(weights),
        starts=np.concatenate([[0], ends[:-1]]),
        ends=ends,
        width=2,
    )


def _answer_start(weights_T: np.ndarray[tuple[int], np.dtype[np.float32]]) -> int:
    """Return the index of the first supervised token. A sequence's first token has no context and never counts."""
    return 1 + int(np.flatnonzero(weights_T[1:])[0])
