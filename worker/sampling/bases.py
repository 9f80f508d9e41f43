"""A base model in memory with all that it takes to ask it, and its tuned models one at a time on top."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig

from api.spec.techniques import Technique
from worker.engine.model.load import checked_config, plain_attention, quantization_config
from worker.engine.model.modes import keep_four_bits, pack_where_possible
from worker.rows.chat_template import ChatTemplate
from worker.rows.end_tokens import EndTokens
from worker.rows.tokenizer import TokenizerWrapper
from worker.sampling.token_bytes import TokenBytes
from worker.techniques import implementation_of

KEPT_ADAPTERS = 8
"""Of one base, in memory."""


@dataclass(frozen=True)
class Tuned:
    """Which model is asked: a base alone, or what was published on it."""

    base: Path
    adapter: Path | None = None
    technique: Technique | None = None

    @property
    def weights(self) -> tuple[Any, ...]:
        """What has to be loaded anew if it differs: a whole model is a base of its own, and so is one whose adapter
        cannot be taken out again, or whose base is kept in four bits."""
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
        """Where the network, its settings and its tokenizer are."""
        return Path(self.weights[0])


class Base:
    """What `tuned.weights` names. Ask it for models of the same weights only."""

    def __init__(self, tuned: Tuned, device: torch.device, dtype: torch.dtype) -> None:
        self.weights = tuned.weights
        folder, technique = tuned.folder, tuned.technique
        self._network = _load(folder, technique if len(self.weights) > 1 else None, device, dtype)
        own = None if technique is None else implementation_of(technique)
        if own is not None and tuned.adapter is not None:
            own.load(self._network, tuned.adapter)
        self._network.eval()
        self._adapted: PeftModel | None = None
        self._kept: dict[Path, str] = {}
        self.tokens = TokenizerWrapper.load(folder)
        self.token_bytes = TokenBytes(self.tokens.tokenizer)
        self.template = ChatTemplate.load(folder)
        self.vocabulary = int(self._network.get_input_embeddings().weight.shape[0])
        self.ends = EndTokens.load(folder, self.tokens).stops
        self.window: int | None = getattr(self._network.config.get_text_config(), "max_position_embeddings", None)

    @contextmanager
    def model(self, tuned: Tuned) -> Iterator[Any]:
        """The model, ready to generate."""
        assert tuned.weights == self.weights, "another base"
        if tuned.adapter is None or tuned.technique is None or tuned.technique.peft_type is None:
            adapted = self._adapted
            if adapted is None or adapted.active_peft_config.is_prompt_learning:
                yield self._network  # virtual tokens stand outside of it
                return
            with adapted.disable_adapter():
                yield adapted
            return
        yield self._with_adapter(tuned.adapter, tuned.technique)

    def _with_adapter(self, folder: Path, technique: Technique) -> PeftModel:
        adapted = self._adapted
        if adapted is not None and adapted.peft_type != technique.peft_type:
            self._take_out()
            adapted = None
        if adapted is None:
            adapted = self._adapted = PeftModel.from_pretrained(self._network, str(folder), adapter_name=_name(folder))
        elif folder not in self._kept:
            if len(self._kept) >= KEPT_ADAPTERS:
                oldest = next(iter(self._kept))
                adapted.delete_adapter(self._kept.pop(oldest))
            adapted.load_adapter(str(folder), adapter_name=_name(folder))
        self._kept[folder] = self._kept.pop(folder, _name(folder))  # the latest stands last
        adapted.set_adapter(_name(folder))
        return adapted.eval()

    def _take_out(self) -> None:
        """Adapters of one kind at a time: peft mixes no others."""
        assert self._adapted is not None
        tuner: Any = self._adapted.base_model
        self._network = tuner.unload() if hasattr(tuner, "unload") else self._adapted.get_base_model()
        self._adapted = None
        self._kept.clear()


def _load(folder: Path, technique: Technique | None, device: torch.device, dtype: torch.dtype) -> Any:
    checked_config(folder)
    options: dict[str, Any] = {}
    if technique is not None and technique.four_bits is not None:
        config = quantization_config(technique.four_bits, dtype)
        options = {"quantization_config": config, "device_map": {"": device}}
    network: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True, **options
    )
    network.to(device)
    if dtype == torch.bfloat16:  # to which packing rounds
        pack_where_possible(network)
    else:
        keep_four_bits(network)
    network.set_attn_implementation(plain_attention(network))
    # Settings that come with a model (penalties, its own end tokens, sampling) are not what the caller asked for.
    network.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    return network


def _name(folder: Path) -> str:
    """peft's names must hold no dots: they become parts of modules' names."""
    return folder.name.replace(".", "_")
