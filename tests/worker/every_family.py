"""Tiny configurations of every family that is accepted, with dropout and noise of their own wherever they know any."""

from typing import Any

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from worker.bases.facts import _architectures
from worker.bases.files import Refused
from worker.engine.model.families import inference_difference
from worker.engine.model.modes import is_random_strength

SMALL: dict[int, tuple[str, ...]] = {
    300: ("vocab_size",),
    128: ("max_position_embeddings", "n_positions", "seq_length", "mamba_d_ssm"),
    64: (
        "hidden_size", "n_embd", "d_model", "dim", "emb_dim", "embedding_size", "intermediate_size", "n_inner",
        "ffn_dim", "hidden_dim", "d_ff", "decoder_ffn_dim", "true_hidden_size", "intra_bottleneck_size", "d_latents",
    ),
    32: ("moe_intermediate_size", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"),
    16: ("head_dim", "attention_head_size", "kv_lora_rank", "q_lora_rank", "mamba_d_head", "mamba_head_dim"),
    8: ("rotary_dim", "mamba_n_heads", "mamba_num_heads", "mamba_d_state", "ssm_state_size", "num_latents"),
    4: (
        "num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "attention_heads", "num_experts",
        "n_routed_experts", "num_local_experts", "num_self_attention_heads", "num_cross_attention_heads",
    ),
    2: (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_key_value_heads",
        "num_experts_per_tok", "n_mamba_heads", "eos_token_id", "sep_token_id",
    ),
    1: ("n_group", "topk_group", "mamba_n_groups", "bos_token_id", "cls_token_id", "n_shared_experts"),
    0: ("pad_token_id",),
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "big_bird": {"attention_type": "original_full"},
    "diffllama": {"attention_dropout": 0.0},  # it refuses another
    "esmc": {"num_key_value_heads": 4},
    "falcon": {"new_decoder_architecture": False, "parallel_attn": False},  # the way that has most dropout
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longformer": {"attention_window": [8, 8]},
    "mamba2": {"num_heads": 8},
    "modernbert": {"global_attn_every_n_layers": 2},
    "modernbert-decoder": {"global_attn_every_n_layers": 2},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "xmod": {"default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}
NOT_SHRUNK = frozenset({
    "axk1", "axk2", "bailing_hybrid", "bamba", "blt", "cohere_compass_text", "dbrx", "deepseek_v2", "deepseek_v3",
    "deepseek_v32", "dots3_note", "dots3_note_text", "emu3", "falcon_h1", "gemma3n_text", "gemma4_assistant",
    "gemma4_text", "gemma4_unified_assistant", "gemma4_unified_text", "glm4_moe_lite", "glm_moe_dsa", "kimi_linear",
    "llama4", "longcat_flash", "minicpm3", "mllama", "neomme", "qwen3_5", "qwen3_5_moe", "qwen4_exp",
    "qwen4_exp_text", "ultravbert", "xlstm", "youtu", "zamba", "zamba2",
})  # fmt: skip
"""Families whose shapes hang together in their own ways, or that come with an eye or an ear."""


def families() -> list[str]:
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) | set(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    return sorted(known - NOT_SHRUNK)


def is_accepted(family: str) -> bool:
    """Whether the family can be a base model. All families together take a second, which no collection of tests waits
    for."""
    config = AutoConfig.for_model(family)
    try:
        _architectures(config)
    except Refused:
        return False
    return inference_difference(config) is None or family in OWN


def tiny_config(family: str) -> Any:
    text = AutoConfig.for_model(family).get_text_config()
    known = {**text.to_dict(), **vars(text)}
    aliases = getattr(type(text), "attribute_map", {})
    sizes = {name: size for size, names in SMALL.items() for name in names}
    chosen: dict[str, Any] = {name: size for name, size in sizes.items() if name in known or name in aliases}
    for name, value in known.items():
        if is_random_strength(name, value) or name == "classifier_dropout":
            chosen[name] = 0.1 if "jitter" in name else 0.5
    if isinstance(kinds := known.get("layer_types"), list):
        others = [kind for kind in dict.fromkeys(kinds) if kind != kinds[0]]
        chosen["layer_types"] = [kinds[0], others[0] if others else kinds[0]]
    if isinstance(kinds := known.get("mlp_layer_types"), list):
        chosen["mlp_layer_types"] = kinds[-2:]
    chosen = {name: value for name, value in chosen.items() if aliases.get(name) not in chosen}
    return AutoConfig.for_model(family, **chosen | OWN.get(family, {}))
