"""AdamW, its schedule, and clipping."""

import math

import torch
from torch import nn

from api.spec.resolve import ResolvedRecipe


def adamw(masters: dict[str, nn.Parameter], recipe: ResolvedRecipe) -> torch.optim.AdamW:
    """Loshchilov and Hutter 2019 (arXiv:1711.05101), fused. Only matrices decay: biases and norms have no direction
    in which being small is simpler. Scales decay as well, towards 1, where they change nothing: `clipped_step` does
    that, since AdamW itself decays to 0. Some weights of some techniques learn faster than the rest."""
    factors, scales = recipe.technique.learning_rate_factors(), recipe.technique.scales
    groups: dict[tuple[float, float, float], list[nn.Parameter]] = {}
    for name, master in masters.items():
        factor = next((factor for part, factor in factors.items() if part in name), 1.0)
        scale = any(part in name for part in scales)
        decay = 0.0 if scale or master.ndim < 2 else recipe.weight_decay
        groups.setdefault((factor, decay, recipe.weight_decay if scale else 0.0), []).append(master)
    settings = [
        {"params": group, "weight_decay": decay, "factor": factor, "decay_to_one": to_one}
        for (factor, decay, to_one), group in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=recipe.learning_rate, fused=True)


def learning_rate(recipe: ResolvedRecipe, step: int) -> float:
    """Of optimizer step 1 … T. Warm-up: peak · step / W. After it, with x = (step - 1 - W) / (T - W) in [0, 1):
    cosine peak · (1 + cos πx) / 2, linear peak · (1 - x), constant peak. No step has a rate of zero.
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
    """One update; returns the gradient's norm before clipping. A gradient that is not finite changes nothing.

    All of it stays on the device: `found_inf` makes the fused kernel skip the update without asking the host.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
    gradients = [
        master.grad for group in optimizer.param_groups for master in group["params"] if master.grad is not None
    ]
    norm = nn.utils.get_total_norm(gradients)
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_([m for group in optimizer.param_groups for m in group["params"]], max_norm, norm)
    optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        if group["decay_to_one"]:
            share = group["lr"] * group["decay_to_one"] * torch.isfinite(norm)
            for master in group["params"]:
                master.detach().add_((1 - master.detach()) * share)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
