"""A base model in memory, with its tokenizer, its chat template and the adapters of fine-tuned models."""

import json
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from api.spec.sampling import SamplingRequest
from api.spec.techniques import Technique
from worker.engine.model.families import context_window, may_be_packed, needs_single_rows
from worker.engine.model.load import checked_config, plain_attention, quantization_config
from worker.engine.model.modes import keep_four_bits, pack_where_possible
from worker.rows.chat_template import ChatTemplate
from worker.rows.generation_ends import EndTokens
from worker.rows.tokenize_rows import TokenizerWrapper
from worker.sampling.batch_attention import BATCHED
from worker.sampling.call_form import CallForm
from worker.sampling.constraint import GrammarConstraint, Grammars
from worker.sampling.generate import LanguageModel
from worker.sampling.token_bytes import TokenBytes
from worker.techniques import implementation_of

KEPT_ADAPTERS = 8
"""Maximum number of adapters that are kept in memory beside their base, unless one batch needs more."""
BASE = "__base__"
"""The adapter name by which peft marks rows without an adapter in a mixed batch."""

BatchKey = tuple[Path | None, ...]


@dataclass(frozen=True)
class ModelSource:
    """The files of a requested model: a base alone, or a published model with its base."""

    base: Path
    adapter: Path | None = None
    technique: Technique | None = field(default=None, hash=False)

    @property
    def base_key(self) -> tuple[Path, *tuple[object, ...]]:
        """The key of the weights in memory: models with the same key share the weights and differ by their peft
        adapters alone.

        Other keys belong to a whole model, to a model whose adapter cannot be removed again, or to a quantization of a
        base.
        """
        technique = self.technique
        if technique is None or self.adapter is None:
            return (self.base,)
        if technique.whole_model:
            return (self.adapter,)
        if implementation_of(technique) is not None:
            return (self.base, self.adapter)
        if technique.four_bits is not None:
            return (self.base, *technique.four_bits)
        return (self.base,)

    @property
    def folder(self) -> Path:
        """The folder of the weights, their config and their tokenizer."""
        return self.base_key[0]


class LoadedBase:
    """The weights in memory that have the key `source.base_key`. Provides all models with that key."""

    def __init__(self, source: ModelSource, device: torch.device, dtype: torch.dtype) -> None:
        self.key = source.base_key
        folder, technique = source.folder, source.technique
        self._network = _load(folder, technique if len(self.key) > 1 else None, device, dtype)
        own = None if technique is None else implementation_of(technique)
        if own is not None and source.adapter is not None:
            own.load(self._network, source.adapter)
        self._network.eval()
        self.device = device
        self._plain_attention = self._network.config._attn_implementation
        self._peft_model: PeftModel | None = None
        self._adapter_names: dict[Path, str] = {}
        self._used: tuple[str, ...] = ()
        """The names that `_use` was called with last; empty if adapters were loaded since."""
        self._hooks = ExitStack()
        """peft's hooks for passes over rows of several adapters."""
        self._adapted_tensors: frozenset[str] = frozenset()
        """The tensors of experts that adapters in memory adapt: peft holds only adapters of the same tensors."""
        self._has_experts = any(weight.ndim == 3 for weight in self._network.parameters())
        self.tokenizer = TokenizerWrapper.load(folder)
        self.token_bytes = TokenBytes(self.tokenizer.tokenizer)
        self.template = ChatTemplate.load(folder)
        self.vocabulary = int(self._network.get_input_embeddings().weight.shape[0])
        self.end_tokens = EndTokens.load(folder, self.tokenizer).stops
        self.grammars = Grammars(self.tokenizer.tokenizer, self.token_bytes, self.vocabulary, self.end_tokens)
        self.context_length = context_window(self._network.config.get_text_config())

    def batch_key(self, source: ModelSource) -> BatchKey | None:
        """Return the key of the batches that may hold the model's answers: models with the same key share batches.

        None: the model's answers are generated one by one, because the family computes rows of a batch differently from
        single answers, or because virtual tokens come before the text.
        """
        config, technique = self._network.config, source.technique
        if not may_be_packed(config) or needs_single_rows(config):
            return None
        if technique is None or technique.mixes:
            # Beside an adapter of experts' tensors, peft computes no rows of several adapters.
            return (source.adapter,) if self._has_experts else ()
        return (source.adapter,) if technique.packable else None

    @cached_property
    def call_form(self) -> CallForm | None:
        """The form in which the chat template writes calls of functions; None if it is unknown."""
        ends = {text for token in self.end_tokens if (text := self.tokenizer.tokenizer.id_to_token(token))}
        return None if self.template is None else CallForm.learn(self.template, ends)

    def constraint_of(self, request: SamplingRequest) -> GrammarConstraint | None:
        """Return the grammar of the request's answers; None if every text is allowed. Raises RequestRefused if the
        grammar cannot be used."""
        return self.grammars.of_request(request, self.call_form if request.offered_tools else None)

    def model(self, source: ModelSource) -> LanguageModel:
        """Return the model, ready to generate single answers: its adapter is active, or all adapters are switched
        off."""
        assert source.base_key == self.key, "another base"
        self._attend(self._plain_attention)
        if not _has_peft_adapter(source):
            self._use(BASE)
            network: LanguageModel = self._network  # peft adds virtual tokens outside of it
            return network
        self.hold(source)
        self._use(_name(source))
        assert self._peft_model is not None
        return self._peft_model

    def rows(self, sources: Sequence[ModelSource]) -> PreTrainedModel:
        """Return the network, ready for passes over a batch whose row b belongs to the model sources[b].

        The models must share a batch key, and `hold` must have been called for each.
        """
        self._attend(BATCHED)
        names = [_name(source) if _has_peft_adapter(source) else BASE for source in sources]
        self._use(*(names if len(set(names)) > 1 else names[:1]))
        network: PreTrainedModel = self._network
        return network

    def hold(self, source: ModelSource, *, beside: Collection[ModelSource] = ()) -> None:
        """Load the model's adapter into memory, if it is a peft adapter and is not loaded yet. If KEPT_ADAPTERS are
        loaded, the least recently used one is removed, but never the adapter of a model in `beside`."""
        folder, technique = source.adapter, source.technique
        if folder is None or technique is None or technique.peft_type is None:
            return
        if folder not in self._adapter_names:
            self._load_adapter(folder, _name(source), technique.peft_type, {each.adapter for each in beside})
        self._adapter_names[folder] = self._adapter_names.pop(folder, _name(source))  # most recently used last

    def _load_adapter(self, folder: Path, name: str, peft_type: str, used: Collection[Path | None]) -> None:
        tensors = _adapted_tensors(folder)
        if self._peft_model is not None and (
            self._peft_model.peft_type != peft_type or (tensors and self._adapted_tensors not in (frozenset(), tensors))
        ):
            self._remove_adapters()
        self._adapted_tensors = tensors or self._adapted_tensors
        # peft switches on the layers that a new adapter adds. If the active adapter makes room, peft activates another,
        # in each layer the first that this layer has.
        self._hooks.close()
        self._used = ()
        if self._peft_model is None:
            self._peft_model = PeftModel.from_pretrained(self._network, str(folder), adapter_name=name).eval()
            return
        self._make_room(used)
        self._peft_model.load_adapter(str(folder), adapter_name=name)
        self._peft_model.eval()

    def _make_room(self, used: Collection[Path | None]) -> None:
        unused = [folder for folder in self._adapter_names if folder not in used]
        if self._peft_model is not None and unused and len(self._adapter_names) >= KEPT_ADAPTERS:
            self._peft_model.delete_adapter(self._adapter_names.pop(unused[0]))

    def _use(self, *names: str) -> None:
        """Let row b of the next passes use the adapter names[b], or none if that is BASE. A single name is for all
        rows. Does nothing if the last passes used the same, because peft changes every layer, which can take as long as
        a token."""
        if names == self._used:
            return
        self._hooks.close()
        self._used = names
        if self._peft_model is None:
            return
        tuner: Any = self._peft_model.base_model
        if isinstance(tuner, BaseTuner):  # else the adapters are virtual tokens outside the network
            (tuner.disable_adapter_layers if names == (BASE,) else tuner.enable_adapter_layers)()
        if len(names) > 1:
            self._hooks.enter_context(tuner._enable_peft_forward_hooks(adapter_names=list(names)))
        elif names != (BASE,):
            self._peft_model.set_adapter(names[0])

    def _attend(self, attention: str) -> None:
        if self._network.config._attn_implementation != attention:
            self._network.set_attn_implementation(attention)

    def _remove_adapters(self) -> None:
        """Restore the plain network without adapters. This makes room for another type: one peft model holds adapters
        of a single type."""
        assert self._peft_model is not None
        tuner: Any = self._peft_model.base_model
        self._network = tuner.unload() if hasattr(tuner, "unload") else self._peft_model.get_base_model()
        self._peft_model, self._adapted_tensors = None, frozenset()
        self._adapter_names.clear()


def _load(folder: Path, technique: Technique | None, device: torch.device, dtype: torch.dtype) -> Any:
    checked_config(folder)
    options: dict[str, object] = {}
    if technique is not None and technique.four_bits is not None:
        config = quantization_config(technique.four_bits, dtype)
        options = {"quantization_config": config, "device_map": {"": device}}
    network: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True, **options
    )
    network.to(device)
    if dtype == torch.bfloat16:  # packed 4-bit weights compute in bfloat16
        pack_where_possible(network)
    else:
        keep_four_bits(network)
    network.set_attn_implementation(plain_attention(network))
    # The model's own generation settings (penalties, end tokens, sampling) must not change what the request asks for.
    network.generation_config = GenerationConfig()
    return network


def _has_peft_adapter(source: ModelSource) -> bool:
    return source.adapter is not None and source.technique is not None and source.technique.peft_type is not None


def _adapted_tensors(adapter: Path) -> frozenset[str]:
    """Return the names of the tensors of experts that a peft adapter adapts."""
    return frozenset(json.loads((adapter / "adapter_config.json").read_bytes()).get("target_parameters") or ())


def _name(source: ModelSource) -> str:
    """Return the name under which peft holds the adapter. It becomes part of module names and must contain no dots."""
    assert source.adapter is not None
    return source.adapter.name.replace(".", "_")
