"""The plainest computation there is, one sequence at a time, with the losses' arithmetic in float64."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tests.worker.parity.ours import Gradients, gradients_of, in_transformers
from worker.methods import Objective
from worker.shared.arrays import Rows


def in_float64(objective: Objective) -> Any:
    """A copy of the model as it is now. transformers keeps norms and attention's softmax in float32 even so."""
    return in_transformers(objective).double()


def in_transformers_at_start(objective: Objective) -> Any:
    """In float64, the model as it was when the method began."""
    with objective.model.reference_weights():
        return frozen(in_float64(objective))


def log_softmax(model: Any, tokens: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    """[T - 1, V]: of the token after each but the last."""
    logits_T_V = model(input_ids=torch.tensor([list(tokens)])).logits[0, :-1]
    found: torch.Tensor = (logits_T_V / temperature).log_softmax(-1)
    return found


def logprobs(model: Any, tokens: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    """[T - 1]"""
    return log_softmax(model, tokens, temperature).gather(1, torch.tensor(list(tokens))[1:, None])[:, 0]


def answer_logprobs(model: Any, rows: Rows) -> list[torch.Tensor]:
    """Of each sequence: [its supervised tokens]."""
    found = []
    for tokens_T, weights_T in rows:
        supervised = torch.from_numpy(weights_T[1:].copy()) > 0
        found.append(logprobs(model, tokens_T.tolist())[supervised])
    return found


def loss_and_gradients(model: Any, loss: Callable[[Any], torch.Tensor]) -> tuple[float, Gradients]:
    found = loss(model)
    found.backward()
    return found.item(), gradients_of(model)


def frozen(model: Any) -> Any:
    return copy.deepcopy(model).requires_grad_(False)
