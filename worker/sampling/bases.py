"""A base model in memory, with its tokenizer, chat template and adapters, one of which is active at a time."""

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
from worker.sampling.constraint import Grammars
from worker.sampling.generate import LanguageModel
from worker.sampling.token_bytes import TokenBytes
from worker.techniques import implementation_of

KEPT_ADAPTERS = 8
"""Number of adapters that stay in memory beside their base."""


@dataclass(frozen=True)
class ModelSource:
    """The files of a requested model: a base alone, or a published model with its base."""

    base: Path
    adapter: Path | None = None
    technique: Technique | None = None

    @property
    def base_key(self) -> tuple[Path, *tuple[object, ...]]:
        """The key of the weights in memory: models with the same key differ by their peft adapters alone.

        A whole model is a base of its own. So is a model whose adapter cannot be removed again, or whose base is
        quantized.
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
    """The weights of `source.base_key` in memory. It provides the models with the same key."""

    def __init__(self, source: ModelSource, device: torch.device, dtype: torch.dtype) -> None:
        self.key = source.base_key
        folder, technique = source.folder, source.technique
        self._network = _load(folder, technique if len(self.key) > 1 else None, device, dtype)
        own = None if technique is None else implementation_of(technique)
        if own is not None and source.adapter is not None:
            own.load(self._network, source.adapter)
        self._network.eval()
        self._peft_model: PeftModel | None = None
        self._adapter_names: dict[Path, str] = {}
        self.tokenizer = TokenizerWrapper.load(folder)
        self.token_bytes = TokenBytes(self.tokenizer.tokenizer)
        self.template = ChatTemplate.load(folder)
        self.vocabulary = int(self._network.get_input_embeddings().weight.shape[0])
        self.end_tokens = EndTokens.load(folder, self.tokenizer).stops
        self.grammars = Grammars(self.tokenizer.tokenizer, self.token_bytes, self.vocabulary, self.end_tokens)
        self.context_length: int | None = getattr(
            self._network.config.get_text_config(), "max_position_embeddings", None
        )

    @contextmanager
    def model(self, source: ModelSource) -> Iterator[LanguageModel]:
        """Yield the model, ready to generate."""
        assert source.base_key == self.key, "another base"
        if source.adapter is None or source.technique is None or source.technique.peft_type is None:
            peft_model = self._peft_model
            if peft_model is None or peft_model.active_peft_config.is_prompt_learning:
                yield self._network  # peft adds virtual tokens outside the network
                return
            with peft_model.disable_adapter():
                yield peft_model
            return
        yield self._with_adapter(source.adapter, source.technique)

    def _with_adapter(self, folder: Path, technique: Technique) -> PeftModel:
        peft_model = self._peft_model
        if peft_model is not None and peft_model.peft_type != technique.peft_type:
            self._remove_adapters()
            peft_model = None
        if peft_model is None:
            peft_model = self._peft_model = PeftModel.from_pretrained(
                self._network, str(folder), adapter_name=_name(folder)
            )
        elif folder not in self._adapter_names:
            if len(self._adapter_names) >= KEPT_ADAPTERS:
                oldest = next(iter(self._adapter_names))
                peft_model.delete_adapter(self._adapter_names.pop(oldest))
            peft_model.load_adapter(str(folder), adapter_name=_name(folder))
        self._adapter_names[folder] = self._adapter_names.pop(folder, _name(folder))  # most recently used last
        peft_model.set_adapter(_name(folder))
        return peft_model.eval()

    def _remove_adapters(self) -> None:
        """Restore the plain network: one peft model holds adapters of a single type."""
        assert self._peft_model is not None
        tuner: Any = self._peft_model.base_model
        self._network = tuner.unload() if hasattr(tuner, "unload") else self._peft_model.get_base_model()
        self._peft_model = None
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


def _name(folder: Path) -> str:
    """Return the adapter's name for peft. It becomes part of module names and must contain no dots."""
    return folder.name.replace(".", "_")
