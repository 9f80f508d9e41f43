"""Sampling of answers from the model in training, and values of their tokens under the current or reference policy."""

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from worker.engine.model.attention import PACKED
from worker.engine.model.batches import MicroBatch
from worker.engine.model.trainable import TrainableModel
from worker.shared.arrays import Rows

FloatArray = npt.NDArray[np.float32]
TokenArray = npt.NDArray[np.int32]


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
    ended: npt.NDArray[np.bool_]
    """[R]: whether the answer ended within the allowed length."""


class RolloutSampler:
    """Samples with transformers' `generate`, in batches of a budget of tokens."""

    def __init__(self, model: TrainableModel, tokenizer: Tokenizer, end_tokens: Set[int], pad_token: int) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._end_tokens, self._pad_token = end_tokens, pad_token

    def sample(self, rows: Rows, *, max_tokens: int, temperature: float, budget_tokens: int, greedy: bool) -> Answers:
        """Return an answer to each prompt: sampled from softmax(logits / temperature), or greedy.

        There is no top-k or top-p: the policy-gradient estimate needs samples from the very distribution whose
        log-probabilities enter the loss.
        """
        prompts = [np.array(tokens_T) for tokens_T, _ in rows]
        answers: list[TokenArray] = [np.zeros(0, np.int32)] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        with _GenerationMode(self._model.network):
            padded = self._model.takes_padding_before
            for batch in _batches(order, prompts, max_tokens, budget_tokens, padded=padded):
                self._model.keep_alive()
                sampled = self._generate([prompts[index] for index in batch], max_tokens, temperature, greedy)
                for index, answer in zip(batch, sampled, strict=True):
                    answers[index] = answer
        ended = np.array([len(answer) > 0 and int(answer[-1]) in self._end_tokens for answer in answers])
        bodies = [(answer[:-1] if end else answer).tolist() for answer, end in zip(answers, ended, strict=True)]
        texts = self._tokenizer.decode_batch(bodies, skip_special_tokens=True)
        return Answers(_concatenate(rows, prompts, answers), prompts, answers, texts, ended)

    @torch.no_grad()
    def _generate(
        self, prompts: list[TokenArray], max_tokens: int, temperature: float, greedy: bool
    ) -> list[TokenArray]:
        """Return the answers to prompts that are generated as one batch, padded on the left."""
        model = self._model
        longest = max(map(len, prompts))
        tokens = torch.full((len(prompts), longest), self._pad_token)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
            mask[row, longest - len(prompt) :] = 1
        sampling = {} if greedy else {"temperature": temperature, "top_k": 0, "top_p": 1.0}
        model.train(False)
        tokens_B_T = model.model.generate(
            input_ids=tokens.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_tokens,
            repetition_penalty=1.0,
            eos_token_id=sorted(self._end_tokens) or None,
            pad_token_id=self._pad_token,
            stopping_criteria=StoppingCriteriaList([_KeepAlive(model)]),
            do_sample=not greedy,
            **sampling,
        )
        return [self._without_padding(row) for row in tokens_B_T[:, longest:].cpu().numpy().astype(np.int32)]

    def _without_padding(self, answer_T: TokenArray) -> TokenArray:
        """Return the answer up to its first end token. `generate` pads finished answers after it."""
        ends = np.flatnonzero(np.isin(answer_T, list(self._end_tokens)))
        return answer_T[: ends[0] + 1] if len(ends) else answer_T


class _KeepAlive(StoppingCriteria):
    """Never stops the generation. It reports at each token that the trainer works: long answers take minutes."""

    def __init__(self, model: TrainableModel) -> None:
        self._model = model

    def __call__(self, input_ids: torch.Tensor, scores: object, **options: object) -> torch.Tensor:
        self._model.keep_alive()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _GenerationMode:
    """A context in which the network generates with transformers' own attention and neutral generation settings.

    The attention for packed rows has no key-value cache. The model's generation_config may hold penalties, top-k or a
    temperature, which would change the distribution that the answers are sampled from.
    """

    def __init__(self, network: PreTrainedModel) -> None:
        self._network = network
        self._attention = network.config._attn_implementation
        self._generation_config = network.generation_config

    def __enter__(self) -> None:
        self._network.generation_config = GenerationConfig()
        if self._attention == PACKED:
            self._network.set_attn_implementation("sdpa" if self._network._supports_sdpa else "eager")

    def __exit__(self, *_: object) -> None:
        self._network.generation_config = self._generation_config
        if self._attention == PACKED:
            self._network.set_attn_implementation(self._attention)


def _batches(
    order: list[int], prompts: list[TokenArray], max_tokens: int, budget_tokens: int, *, padded: bool
) -> list[list[int]]:
    """Group prompts, given in `order` of their lengths, into batches within the budget of tokens.

    Unless they may be `padded`, all prompts of a batch have the same length.
    """
    batches: list[list[int]] = []
    for index in order:
        size = len(prompts[index]) + max_tokens
        compatible = batches and (padded or len(prompts[batches[-1][0]]) == len(prompts[index]))
        if compatible and (len(batches[-1]) + 1) * size <= max(budget_tokens, size):
            batches[-1].append(index)
        else:
            batches.append([index])
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


POSITION_BASE = 1 << 20
"""A token's position goes through micro-batches as two numbers, quotient and remainder by this: micro-batches carry
per-token values as float32, which represents integers exactly only up to 2^24."""


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
    high_N, low_N = (part.astype(np.float32) for part in divmod(np.arange(len(rows.tokens)), POSITION_BASE))
    for batch in batches(replace(rows, per_token={"high": high_N, "low": low_N})):
        high_S, low_S = (batch.per_token[name].long().cpu().numpy() for name in ("high", "low"))
        positions_S = POSITION_BASE * high_S + low_S
        for values_N, values_S in zip(values, compute(batch), strict=True):
            values_N[positions_S] = values_S.float().cpu().numpy()
    return values
