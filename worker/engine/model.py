"""Base model + technique → a model that trains, and the log-probabilities of its supervised tokens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from api.lifecycle import FailureReason
from api.recipe import ResolvedRecipe
from api.techniques import Lora
from worker.engine.attention import PACKED
from worker.engine.batches import Layout, MicroBatch
from worker.engine.families import examples_stay_alone, head_of, layers_without_adapters, may_be_packed
from worker.engine.head import score, token_logprobs
from worker.engine.stopping import TrainingError


class TrainableModel:
    """A causal language model some of whose weights are trained.

    What is trained is kept in float32. Where the computation is in bfloat16 and a technique trains the base's own
    weights, `masters` holds the float32 copies that the optimizer moves, and the model computes with their roundings.
    """

    def __init__(self, model: Any, *, packed: bool, alone: bool) -> None:
        self.model = model
        adapter: Any = model if isinstance(model, PeftModel) else None
        self.causal_lm: Any = adapter.get_base_model() if adapter else model
        self.layout = Layout(packed=packed, alone=alone)
        self.trained: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.masters = {name: _master(parameter) for name, parameter in self.trained.items()}
        self.tick: Callable[[], None] = lambda: None
        """Called at each micro-batch, by whoever wants to know that work goes on."""
        self._head = head_of(self.causal_lm)
        self._head_trained = [p for p in self.causal_lm.get_output_embeddings().parameters() if p.requires_grad]

    @property
    def device(self) -> torch.device:
        device: torch.device = self.causal_lm.device
        return device

    def logprobs(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probability of each supervised token, 1.0 where it is the likeliest), float32 [S]."""
        self.tick()
        if not self.layout.packed:
            logits_B_T_V = self.causal_lm(
                input_ids=batch.tokens, attention_mask=batch.attention_mask, use_cache=False
            ).logits
            return score(logits_B_T_V.flatten(0, 1)[batch.places], batch.targets)
        hidden_1_N_D = self.causal_lm.get_decoder()(
            input_ids=batch.tokens, position_ids=batch.positions, segments=batch.segments, use_cache=False
        ).last_hidden_state
        hidden_S_D = hidden_1_N_D[0].index_select(0, batch.places)
        vocabulary = self.causal_lm.config.vocab_size
        return token_logprobs(hidden_S_D, self._head, batch.targets, vocabulary=vocabulary, trained=self._head_trained)

    @torch.no_grad()
    def round_masters(self) -> None:
        """After an optimizer step: the model's weights become the roundings of their float32 masters."""
        for name, parameter in self.trained.items():
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])

    @torch.no_grad()
    def set_weights(self, weights: dict[str, torch.Tensor]) -> None:
        assert weights.keys() == self.masters.keys(), f"other weights: {sorted(weights.keys() ^ self.masters.keys())}"
        for name, master in self.masters.items():
            master.copy_(weights[name])
        self.round_masters()

    def release(self) -> None:
        """Free the weights. The model is of no use afterwards."""
        self.trained, self.masters, self._head_trained = {}, {}, []
        self.model = self.causal_lm = None
        del self._head  # it holds the model too


def _master(parameter: nn.Parameter) -> nn.Parameter:
    """The float32 weight that the optimizer moves: the parameter itself, or a copy that collects its gradients."""
    if parameter.dtype == torch.float32:
        return parameter
    master = nn.Parameter(parameter.detach().float())

    def collect(computed: torch.Tensor) -> None:
        gradient, computed.grad = computed.grad, None
        assert gradient is not None
        master.grad = gradient.float() if master.grad is None else master.grad.add_(gradient)

    parameter.register_post_accumulate_grad_hook(collect)  # type: ignore[no-untyped-call]
    return master


def load_trainable(base: Path, recipe: ResolvedRecipe, device: torch.device) -> TrainableModel:
    assert recipe.precision != "auto", "precision is resolved before the model is loaded"
    model = load_base(base, getattr(torch, recipe.precision), device, packed=True)
    packed, alone = model.config._attn_implementation == PACKED, examples_stay_alone(model.config)
    torch.manual_seed(recipe.seed)
    if recipe.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if isinstance(recipe.technique, Lora):
        model = _with_lora(model, recipe.technique)
    return TrainableModel(model, packed=packed, alone=alone)


def load_base(folder: Path, dtype: torch.dtype, device: torch.device, *, packed: bool = False) -> Any:
    """The base as transformers loads it, and with `packed` the attention for packed rows where its family may use it.

    Dropout of the base's own is switched off: the technique's is the only one that a recipe speaks of.
    """
    config = _checked_config(folder)
    attention = {"attn_implementation": PACKED} if packed and may_be_packed(config) else {}
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True, **attention
    )
    model.to(device)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return model


class _Config:
    def __init__(self, model_type: str) -> None:
        self.model_type = model_type


def _checked_config(folder: Path) -> _Config:
    """Code that comes with a model is never run: a model that wants to is refused before transformers sees it."""
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.exists() and "auto_map" in json.loads(path.read_bytes()):
            raise TrainingError(FailureReason.INVALID_RECIPE, "The base model brings its own code, which is never run.")
    return _Config(json.loads((folder / "config.json").read_bytes()).get("model_type", ""))


def _with_lora(model: Any, technique: Lora) -> Any:
    names = technique.target_modules
    barred = layers_without_adapters(model.config)
    matrices = (name.removesuffix(".weight") for name, weight in model.named_parameters() if weight.ndim == 2)
    linear = {name.rsplit(".", 1)[-1] for name in matrices if not name.endswith(".bias")}
    if names != "all-linear" and (missing := sorted(set(names) - (linear - set(barred)))):
        raise TrainingError(
            FailureReason.INVALID_RECIPE,
            f"technique.target_modules: the base model has no trainable layer called {', '.join(missing)[:200]}.",
        )
    return get_peft_model(
        model,
        LoraConfig(
            r=technique.rank,
            lora_alpha=technique.alpha,  # type: ignore[arg-type]  # a float is fine
            lora_dropout=technique.dropout,
            target_modules=names if isinstance(names, str) else sorted(names),
            exclude_modules=barred or None,
            task_type="CAUSAL_LM",
        ),
    )
