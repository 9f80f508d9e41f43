"""Tiny random models of every family that the trainer has a claim about, made on the fly, with a tiny tokenizer."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 300
WINDOW = 8
"""Of the families with a sliding window, tokens. Shorter than the tests' examples, on purpose."""

_SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": 258,
    "pad_token_id": 258,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 128,
        "attn_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
    },
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 16,
        "sliding_window": WINDOW,
        "attn_logit_softcapping": 0.5,
        "final_logit_softcapping": 0.3,
        "query_pre_attn_scalar": 16,
    },
    "mistral": {"model_type": "mistral", "sliding_window": WINDOW, "head_dim": 8},
    "phi": {"model_type": "phi", "partial_rotary_factor": 0.5, "attention_dropout": 0.1, "num_key_value_heads": 4},
    "phi3": {"model_type": "phi3", "sliding_window": WINDOW},
    "falcon_h1": {  # Mamba-2 beside attention in every layer
        "model_type": "falcon_h1",
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
        "attention_dropout": 0.0,
    },
}


def make_model(folder: Path, family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A base model's folder: weights, config, tokenizer, chat template. Weights are larger than at initialisation, so
    that attention, capping and windows all show in the logits."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**(_SHARED | FAMILIES[family]))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.2)
    model.to(dtype).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def make_tokenizer(folder: Path) -> None:
    """Bytes as tokens, and three special ones for turns."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "<turn>", "</turn>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</turn>", "pad_token": "</turn>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}<turn>{{ message['role'] }}\n{{ message['content'] }}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
    )
