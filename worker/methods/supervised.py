"""Supervised fine-tuning: imitate the supervised tokens."""

import torch


def loss(
    logprobs_S: torch.Tensor, hits_S: torch.Tensor, weights_S: torch.Tensor, total_weight: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """L = - sum_i w_i log p(token_i | tokens before it) / W: a micro-batch's share of the weighted mean.

    W sums the weights of the whole optimizer step (or evaluation), so that the shares of all its micro-batches add up
    to the same loss and gradient however they are cut. The accuracy is weighted alike.
    """
    share = -(weights_S * logprobs_S).sum() / total_weight
    accuracy = (weights_S * hits_S).sum() / total_weight
    return share, {"mean_token_accuracy": accuracy}
