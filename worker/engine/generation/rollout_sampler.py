"""Sampling of answers from the model in training, and values of their tokens under the current or reference policy."""

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from api.estimate.sampling import SamplingPlan
from worker.engine.generation.decoding import decode
from worker.engine.generation.padded_generation import generate_padded
from worker.engine.generation.token_draws import TokenArray, TokenDraws
from worker.engine.model.batches import MicroBatch
from worker.engine.model.lora import rounded_once
from worker.engine.model.temporary_merge import merged_adapters
from worker.engine.model.trainable import TrainableModel
from worker.rows.reasoning_reader import content_of, first_part
from worker.shared.arrays import Rows

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """One answer to each of R prompts."""

    rows: Rows
    """R rows of prompt and answer. The answer's tokens have loss weight 1, the prompt's 0."""
    prompts: list[TokenArray]
    answers: list[TokenArray]
    """Token ids, including the end token if the answer ended."""
    texts: list[str]
    """The answers without special tokens and without the end token, which need not be a special token."""
    contents: list[str]
    """The texts without the reasoning, as graders read them."""
    ended: npt.NDArray[np.bool_]
    """[R]: whether the answer ended within the allowed length."""


class RolloutSampler:
    """Samples answers in batches that fill the memory of a `SamplingPlan`."""

    def __init__(self, model: TrainableModel, tokenizer: Tokenizer, end_tokens: Set[int], pad_token: int) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._end_tokens, self._pad_token = end_tokens, pad_token

    def sample(
        self, rows: Rows, *, max_tokens: int, temperature: float, plan: SamplingPlan, seed: Sequence[int] = ()
    ) -> Answers:
        """Return an answer to each prompt, sampled from softmax(logits / temperature), or greedy if the temperature is
        0.

        The random numbers of an answer depend on the seed, the prompt's number and the number of earlier answers to the
        same prompt, but not on the batches. The logits may depend on the size of the batch in their last bits.
        """
        prompts = [np.array(tokens_T) for tokens_T, _ in rows]
        draws = TokenDraws(seed, rows.numbers.tolist(), temperature=temperature, max_tokens=max_tokens)
        answers: list[TokenArray] = [np.zeros(0, np.int32)] * len(prompts)
        self._model.train(False)
        with merged_adapters(self._model.model) if plan.merges else rounded_once(self._model.model):
            for batch in self._batches(prompts, max_tokens, plan):
                self._model.keep_alive()
                found = self._generate([prompts[row] for row in batch], np.array(batch), draws, max_tokens, plan)
                for row, answer in zip(batch, found, strict=True):
                    answers[row] = answer
        ended = np.array([len(answer) > 0 and int(answer[-1]) in self._end_tokens for answer in answers])
        bodies = [(answer[:-1] if end else answer).tolist() for answer, end in zip(answers, ended, strict=True)]
        texts = self._tokenizer.decode_batch(bodies, skip_special_tokens=True)
        contents = [
            content_of(text, first_part(self._tokenizer, prompt.tolist()))
            for text, prompt in zip(texts, prompts, strict=True)
        ]
        return Answers(_concatenate(rows, prompts, answers), prompts, answers, texts, contents, ended)

    def _generate(
        self,
        prompts: list[TokenArray],
        rows_B: npt.NDArray[np.int64],
        draws: TokenDraws,
        max_tokens: int,
        plan: SamplingPlan,
    ) -> list[TokenArray]:
        if self._decodes:
            return decode(
                self._model,
                prompts,
                rows_B,
                draws,
                max_tokens=max_tokens,
                end_tokens=self._end_tokens,
                budget_tokens=plan.budget_tokens,
            )
        return generate_padded(
            self._model,
            prompts,
            rows_B,
            draws,
            max_tokens=max_tokens,
            end_tokens=self._end_tokens,
            pad_token=self._pad_token,
        )

    @property
    def _decodes(self) -> bool:
        return self._model.layout.packed and not self._model.layout.single_row

    def _batches(self, prompts: list[TokenArray], max_tokens: int, plan: SamplingPlan) -> list[list[int]]:
        """Group the prompts into batches, sorted by length, with equal prompts beside each other.

        A padded batch computes the tokens of all its prompts at once, as a micro-batch does, so it has the same budget.
        If the model takes no padding before prompts, all prompts of a batch have the same length.
        """
        budget = plan.cache_tokens if self._decodes else plan.budget_tokens
        padded = self._decodes or self._model.takes_padding_before
        batches: list[list[int]] = []
        for row in sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), prompts[row].tobytes())):
            size = len(prompts[row]) + max_tokens
            compatible = batches and (padded or len(prompts[batches[-1][0]]) == len(prompts[row]))
            if compatible and (len(batches[-1]) + 1) * size <= budget:
                batches[-1].append(row)
            else:
                batches.append([row])
        return batches


def _concatenate(rows: Rows, prompts: list[TokenArray], answers: list[TokenArray]) -> Rows:
    """Return rows of prompt and answer, with loss weight 1 at the answers' tokens."""
    tokens = [np.concatenate([prompt, answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    weights = [
        np.concatenate([np.zeros(len(prompt)), np.ones(len(answer))])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    ends = np.cumsum([len(sequence) for sequence in tokens])
    return replace(
        rows,
        tokens=np.concatenate(tokens).astype(np.int32),
        loss_weights=np.concatenate(weights).astype(np.float32),
        starts=np.concatenate([[0], ends[:-1]]),
        ends=ends,
        labels=None,
        per_row={},
        per_token={},
    )


@torch.no_grad()
def token_values(
    rows: Rows,
    batches: Callable[[Rows], Iterable[MicroBatch]],
    compute: Callable[[MicroBatch], list[torch.Tensor]],
    count: int,
) -> list[FloatArray]:
    """Return `count` arrays [N] of values for each supervised token, such as its log-probability; 0 elsewhere.

    `compute` returns `count` tensors [S] for the supervised tokens of a micro-batch.
    """
    values = [np.zeros(len(rows.tokens), np.float32) for _ in range(count)]
    places: list[npt.NDArray[np.int64]] = []
    found: list[torch.Tensor] = []
    for batch in batches(replace(rows, per_token={})):
        places.append(batch.sources)
        found.append(torch.stack([values_S.float() for values_S in compute(batch)]))
    if found:  # the host waits for the device only now
        for values_N, values_S in zip(values, torch.cat(found, dim=1).cpu().numpy(), strict=True):
            values_N[np.concatenate(places)] = values_S
    return values
