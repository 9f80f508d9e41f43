"""Backward passes of fake tensors on a GPU, node by node. torch's own engine asks the driver, which is not there."""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge

Gradients = list[torch.Tensor | None]


@torch.no_grad()
def gradients(outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor] | None, outer: Gradients) -> Gradients:
    """Return the gradients of the inputs. Without inputs, the gradients are accumulated in the leaves, as
    `Tensor.backward` does.

    Nodes run in the reverse order of their creation, like in torch's engine.
    """
    order = itertools.count()
    waiting: dict[Any, dict[int, torch.Tensor]] = {}
    queue: list[tuple[int, int, Any]] = []

    def add(node: Any, number: int, gradient: torch.Tensor | None) -> None:
        if node is None or gradient is None:
            return
        if node not in waiting:
            waiting[node] = {}
            heapq.heappush(queue, (-node._sequence_nr(), next(order), node))
        expected = node._input_metadata[number]  # formulas leave broadcasts and casts to the engine
        gradient = gradient.sum_to_size(expected.shape).to(expected.dtype)
        held = waiting[node].get(number)
        waiting[node][number] = gradient if held is None else held + gradient

    wanted = None if inputs is None else [get_gradient_edge(each) for each in inputs]
    captured: dict[tuple[Any, int], torch.Tensor] = {}
    for output, gradient in zip(outputs, outer, strict=True):
        edge = get_gradient_edge(output)
        add(edge.node, edge.output_nr, torch.ones_like(output) if gradient is None else gradient)
    while queue:
        *_, node = heapq.heappop(queue)
        found = waiting.pop(node)
        if wanted is not None:
            captured |= {(node, number): gradient for number, gradient in found.items()}
            if not node.next_functions:  # a leaf, whose `grad` stays
                continue
        for (following, number), gradient in _returned(node, found):
            add(following, number, gradient)
    return [captured.get((edge.node, edge.output_nr)) for edge in wanted or ()]


def _returned(node: Any, found: dict[int, torch.Tensor]) -> Iterator[tuple[tuple[Any, int], torch.Tensor | None]]:
    """Run the node. Yield its gradients, each with the node and the input that it is for."""
    if callable(node):
        returned = node(*(found.get(number) for number in range(len(node._input_metadata))))
        yield from zip(node.next_functions, returned if isinstance(returned, tuple) else (returned,), strict=False)
        return
    # A function in Python takes zeros where there is no gradient, and returns one for each argument, tensor or not.
    arguments = [
        torch.zeros(each.shape, dtype=each.dtype, device=each.device) if found.get(number) is None else found[number]
        for number, each in enumerate(node._input_metadata)
    ]
    needed = [each for each, needs in zip(node.apply(*arguments), node.needs_input_grad, strict=False) if needs]
    yield from zip((edge for edge in node.next_functions if edge[0] is not None), needed, strict=True)


def backward(output: torch.Tensor, *_: object, **__: object) -> None:
    gradients([output], None, [None])


def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, **_: object) -> tuple[torch.Tensor | None, ...]:
    """As torch.autograd.grad."""
    several = isinstance(inputs, (list, tuple))
    return tuple(gradients([outputs], [*inputs] if several else [inputs], [grad_outputs]))
