"""AdamW, the learning-rate schedule, and gradient clipping."""

import math

import torch
from torch import nn

from api.spec.resolve import ResolvedRecipe


def adamw(masters: dict[str, nn.Parameter], recipe: ResolvedRecipe) -> torch.optim.AdamW:
    """Return a fused AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) for the float32 weights.

    Only matrices decay towards 0, because a smaller norm weight or bias does not make the model simpler. The
    technique's scales decay towards 1 instead, where they change nothing. AdamW cannot do that, so `clipped_step` does.
    Some weights, such as LoRA+'s B, are trained with a multiple of the learning rate
    (`Technique.learning_rate_factors`).
    """
    factors, scales = recipe.technique.learning_rate_factors(), recipe.technique.scales
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    for name, master in masters.items():
        factor = next((factor for part, factor in factors.items() if part in name), 1.0)
        is_scale = any(part in name for part in scales)
        decay = 0.0 if is_scale or master.ndim < 2 else recipe.weight_decay
        groups.setdefault((factor, decay, recipe.weight_decay if is_scale else 0.0), []).append(master)
    param_groups = [
        {"params": group, "weight_decay": decay, "factor": factor, "decay_to_one": to_one}
        for (factor, decay, to_one), group in groups.items()
    ]
    return torch.optim.AdamW(param_groups, lr=recipe.learning_rate, fused=True)


def learning_rate(recipe: ResolvedRecipe, step: int) -> float:
    """Return the learning rate of optimizer step 1 … T, never zero.

    Warm-up over W steps: peak · step / W. After it, with x = (step - 1 - W) / (T - W) in [0, 1): for cosine
    peak · (1 + cos πx) / 2, for linear peak · (1 - x), for constant peak.
    """
    done, warmup, total = step - 1, recipe.warmup_steps, recipe.total_steps
    if done < warmup:
        return recipe.learning_rate * step / warmup
    x = (done - warmup) / (total - warmup)
    match recipe.scheduler:
        case "cosine":
            return recipe.learning_rate * (1 + math.cos(math.pi * x)) / 2
        case "linear":
            return recipe.learning_rate * (1 - x)
        case "constant":
            return recipe.learning_rate


def clipped_step(optimizer: torch.optim.AdamW, max_norm: float | None, rate: float) -> torch.Tensor:
    """Clip the gradients to `max_norm`, make one update, and return the gradients' norm before clipping.

    If the norm is not finite, no weight changes. The host does not wait for the norm: the fused kernel reads
    `found_inf` on the device, and skips the update if it is 1.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    masters = [master for group in optimizer.param_groups for master in group["params"]]
    norm = nn.utils.get_total_norm([master.grad for master in masters if master.grad is not None])
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(masters, max_norm, norm)
    finite = torch.isfinite(norm)
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        if group["decay_to_one"]:
            # Decoupled decay towards 1: w ← w + lr · λ · (1 - w), or no change if the gradient is not finite.
            share = group["lr"] * group["decay_to_one"] * finite
            for master in group["params"]:
                master.detach().add_((1 - master.detach()) * share)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
