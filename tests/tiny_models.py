"""Tiny random models of every family that the trainer has a claim about, made on the fly, with a tiny tokenizer."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

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
    "gemma3_text": {
        "model_type": "gemma3_text",
        "head_dim": 16,
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "granite": {
        "model_type": "granite",
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
    },
    "mistral": {"model_type": "mistral", "sliding_window": WINDOW, "head_dim": 8},
    "olmo2": {"model_type": "olmo2"},
    "smollm3": {"model_type": "smollm3", "no_rope_layers": [1, 0]},
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

_FOUR_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_SHARED_EXPERT = {
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
_LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4,
}  # fmt: skip
MIXTURES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 4, "head_dim": 8, "mlp_only_layers": []},
    "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 40, "mlp_only_layers": [1]},
    "mixtral": {"num_local_experts": 4},
    "olmoe": {"num_experts": 4},
    "gpt_oss": {"num_local_experts": 4, "head_dim": 8, "sliding_window": WINDOW},
    "granitemoe": {"num_local_experts": 4},
    "deepseek_v3": _SHARED_EXPERT | _LATENT,
    "glm4_moe": _SHARED_EXPERT | {"head_dim": 8},
    "phimoe": {"num_local_experts": 4},
    "jetmoe": {"num_local_experts": 4, "kv_channels": 8},
    "llama4_text": {
        "num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 48, "head_dim": 8,
        "moe_layers": [0, 1],
    },
}  # fmt: skip
"""Mixtures of four experts."""
FAMILIES["qwen3_moe"] = {"model_type": "qwen3_moe", **_FOUR_EXPERTS, **MIXTURES["qwen3_moe"]}

_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "cls_token_id": 256,
    "eos_token_id": 257,
    "sep_token_id": 257,
    "pad_token_id": 258,
}

ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert"},
    "roberta": {"model_type": "roberta", "max_position_embeddings": 400},  # its positions begin after pad_token_id
    "xlm-roberta": {"model_type": "xlm-roberta", "max_position_embeddings": 400},
    "electra": {"model_type": "electra", "embedding_size": 16},
    "deberta-v2": {
        "model_type": "deberta-v2",
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_buckets": 8,
    },
    "distilbert": {"model_type": "distilbert", "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    "modernbert": {"model_type": "modernbert", "local_attention": WINDOW, "global_attn_every_n_layers": 2},
}


WIDE: dict[str, dict[str, Any]] = {
    f"{family}_wide": {"model_type": family, "hidden_size": 64, "intermediate_size": 128}
    for family in ("llama", "bert")
} | {
    "roberta_wide": ENCODERS["roberta"] | {"hidden_size": 64, "intermediate_size": 128},
    "gpt2_wide": FAMILIES["gpt2"] | {"n_embd": 64, "hidden_size": 64},
}
"""No families of their own: layers that hold whole blocks of 64 weights."""


def tiny_config(family: str) -> Any:
    """Return the configuration of a tiny language model of the family, or of an encoder with two labels."""
    if family in ENCODERS:
        return AutoConfig.for_model(**(_ENCODER | ENCODERS[family]), num_labels=2)
    if family in MIXTURES:
        return AutoConfig.for_model(**(_SHARED | _FOUR_EXPERTS | {"model_type": family} | MIXTURES[family]))
    return AutoConfig.for_model(**(_SHARED | (FAMILIES | WIDE)[family]))


def make_model(folder: Path, family: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A base model's folder: weights, config, tokenizer, chat template. Weights are larger than at initialisation, so
    that attention, capping and windows all show in the logits."""
    torch.manual_seed(seed)
    _save(AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32), folder, dtype)
    make_tokenizer(folder)
    return folder


def make_encoder(
    folder: Path, family: str = "bert", *, labels: int = 0, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Path:
    """An encoder's folder, alike, with a tokenizer that writes [CLS] text [SEP]. With `labels`: a classifier of so
    many classes, whose head is random."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**(_ENCODER | (ENCODERS | WIDE)[family]), num_labels=labels or 2)
    auto: Any = AutoModelForSequenceClassification if labels else AutoModel
    _save(auto.from_config(config, dtype=torch.float32), folder, dtype)
    make_encoder_tokenizer(folder)
    return folder


def _save(model: Any, folder: Path, dtype: torch.dtype) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.2)
    model.to(dtype).save_pretrained(folder)


def make_tokenizer(folder: Path) -> None:
    """Bytes as tokens, and three special ones for turns."""
    tokenizer = _bytes()
    tokenizer.add_special_tokens(["<s>", "<turn>", "</turn>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_chat_settings(folder)


def write_chat_settings(folder: Path) -> None:
    """Settings and a chat template for a tokenizer with these special tokens."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</turn>", "pad_token": "</turn>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}<turn>{{ message['role'] }}\n{{ message['content'] }}</turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
    )


def make_encoder_tokenizer(folder: Path) -> None:
    """Bytes as tokens, and what encoders put around a text or two."""
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    tokenizer = _bytes()
    tokenizer.add_special_tokens(list(special.values()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _bytes() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
