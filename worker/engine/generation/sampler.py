"""Rollouts: answers that the model samples itself, and what the policies of then and of step 0 say of them."""

from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from worker.engine.model.attention import PACKED
from worker.engine.model.trainable import TrainableModel
from worker.shared.arrays import Rows

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """One answer to each of R prompts."""

    rows: Rows
    """R rows of prompt and answer; the answer's tokens have weight 1."""
    prompts: list[npt.NDArray[np.int32]]
    answers: list[npt.NDArray[np.int32]]
    """With the token that ended it, if it ended."""
    texts: list[str]
    """Without special tokens, and without the token that ended it, which need not be one of those."""
    ended: npt.NDArray[np.bool_]
    """[R]: it ended before the longest answer that is allowed."""


class Sampler:
    def __init__(self, model: TrainableModel, tokenizer: Tokenizer, end_tokens: Set[int], pad_token: int) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._end_tokens, self._pad_token = end_tokens, pad_token

    def sample(self, rows: Rows, *, max_tokens: int, temperature: float, budget_tokens: int, greedy: bool) -> Answers:
        """An answer to each prompt, drawn from softmax(logits / temperature), or the likeliest tokens."""
        prompts = [np.array(tokens_T) for tokens_T, _ in rows]
        answers: list[npt.NDArray[np.int32]] = [np.zeros(0, np.int32)] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        with self._plain_attention():
            padded = self._model.takes_padding_before
            for together in _chunks(order, prompts, max_tokens, budget_tokens, padded=padded):
                self._model.keep_alive()
                sampled = self._generate([prompts[index] for index in together], max_tokens, temperature, greedy)
                for index, answer in zip(together, sampled, strict=True):
                    answers[index] = answer
        ended = np.array([len(answer) > 0 and int(answer[-1]) in self._end_tokens for answer in answers])
        said = [(answer[:-1] if end else answer).tolist() for answer, end in zip(answers, ended, strict=True)]
        texts = self._tokenizer.decode_batch(said, skip_special_tokens=True)
        return Answers(_joined(rows, prompts, answers), prompts, answers, texts, ended)

    @torch.no_grad()
    def _generate(
        self, prompts: list[npt.NDArray[np.int32]], max_tokens: int, temperature: float, greedy: bool
    ) -> list[npt.NDArray[np.int32]]:
        model = self._model
        longest = max(map(len, prompts))
        tokens = torch.full((len(prompts), longest), self._pad_token)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
            mask[row, longest - len(prompt) :] = 1
        drawing: dict[str, Any] = {"do_sample": False}
        if not greedy:
            drawing = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        model.train(False)
        found = model.model.generate(
            input_ids=tokens.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_tokens,
            repetition_penalty=1.0,
            eos_token_id=sorted(self._end_tokens) or None,
            pad_token_id=self._pad_token,
            stopping_criteria=StoppingCriteriaList([_Alive(model)]),
            **drawing,
        )
        return [self._cut(row) for row in found[:, longest:].cpu().numpy().astype(np.int32)]

    def _cut(self, answer_T: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Up to the first token that ends it; what follows is padding."""
        ends = np.flatnonzero(np.isin(answer_T, list(self._end_tokens)))
        return answer_T[: ends[0] + 1] if len(ends) else answer_T

    def _plain_attention(self) -> Any:
        return _Attention(self._model.network)


class _Alive(StoppingCriteria):
    """Stops nothing: tells at each token that work goes on, which thousands of them can take longer than any step."""

    def __init__(self, model: TrainableModel) -> None:
        self._model = model

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        self._model.keep_alive()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _Attention:
    """Generation keeps a cache, for which the packed attention has no use: the model has transformers' own then. And it
    draws from the model's own distribution, whatever its makers advise for use (`generation_config`)."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._before = network.config._attn_implementation
        self._advised = network.generation_config

    def __enter__(self) -> None:
        self._network.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        if self._before == PACKED:
            self._network.set_attn_implementation("sdpa" if self._network._supports_sdpa else "eager")

    def __exit__(self, *_: object) -> None:
        self._network.generation_config = self._advised
        if self._before == PACKED:
            self._network.set_attn_implementation(self._before)


def _chunks(
    order: list[int], prompts: list[Any], max_tokens: int, budget_tokens: int, *, padded: bool
) -> list[list[int]]:
    """Prompts of similar length together, or of the same length if they are not `padded`, as many as the budget
    allows."""
    chunks: list[list[int]] = []
    for index in order:
        size = len(prompts[index]) + max_tokens
        alike = chunks and (padded or len(prompts[chunks[-1][0]]) == len(prompts[index]))
        if alike and (len(chunks[-1]) + 1) * size <= max(budget_tokens, size):
            chunks[-1].append(index)
        else:
            chunks.append([index])
    return chunks


def _joined(rows: Rows, prompts: list[Any], answers: list[Any]) -> Rows:
    tokens = [np.concatenate([prompt, answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    weights = [
        np.concatenate([np.zeros(len(prompt)), np.ones(len(answer))])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    ends = np.cumsum([len(each) for each in tokens])
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


HIGH = 1 << 20
"""A place is told as two numbers: float32, in which batches carry what belongs to tokens, counts to 2^24 only."""


@torch.no_grad()
def read_tokens(
    rows: Rows, batches: Callable[[Rows], Any], read: Callable[[Any], list[torch.Tensor]], count: int
) -> list[FloatArray]:
    """`count` arrays [N], each with what `read` says of a micro-batch's supervised tokens, at those tokens' places."""
    found = [np.zeros(len(rows.tokens), np.float32) for _ in range(count)]
    places_N = np.arange(len(rows.tokens))
    high_N, low_N = (part.astype(np.float32) for part in divmod(places_N, HIGH))
    for batch in batches(replace(rows, per_token={"high": high_N, "low": low_N})):
        high_S, low_S = (batch.per_token[name].long().cpu().numpy() for name in ("high", "low"))
        at = HIGH * high_S + low_S
        for array, values_S in zip(found, read(batch), strict=True):
            array[at] = values_S.float().cpu().numpy()
    return found
