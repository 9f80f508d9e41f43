"""What is known of a base model: the contents of its attune.json."""

from pathlib import Path
from typing import TypedDict

from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from worker.bases.files import Refused
from worker.bases.weights import Weights
from worker.rows.chat_template import ChatTemplate


class Facts(TypedDict):
    kind: str
    """causal_lm: predicts the next token."""
    model_type: str
    architectures: list[str]
    parameters: int
    context_window: int
    """Tokens."""
    hidden_size: int
    layers: int
    heads: int
    vocab_size: int
    dtype: str
    """Of the weights as stored."""
    source: str
    """The hub id, or the name of the folder or file."""
    revision: str | None
    """The hub's commit."""
    license: str | None
    chat_template: bool
    dequantised_from: str | None
    """What a GGUF file's weights were, such as Q4_1; null if nothing was lost before."""


def facts_of(
    folder: Path,
    weights: Weights,
    *,
    source: str,
    revision: str | None,
    license_name: str | None,
    dequantised_from: str | None,
) -> Facts:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise Refused(f"this version of transformers does not know its config.json: {reason}") from None
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    architectures = list(config.architectures or ([known] if known else []))
    if known is None or known not in architectures or known.endswith("ForConditionalGeneration"):
        named = ", ".join(architectures) or config.model_type
        raise Refused(f"{named} is not a model that predicts the next token of a text (a causal language model)")
    text = config.get_text_config()
    try:
        return Facts(
            kind="causal_lm",
            model_type=config.model_type,
            architectures=architectures,
            parameters=weights.parameters,
            context_window=_context_window(text),
            hidden_size=text.hidden_size,
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            vocab_size=text.vocab_size,
            dtype=weights.dtype,
            source=source,
            revision=revision,
            license=license_name,
            chat_template=ChatTemplate.load(folder) is not None,
            dequantised_from=dequantised_from,
        )
    except AttributeError as error:
        raise Refused(f"config.json does not say enough of its shape: {error}") from None


def _context_window(config: object) -> int:
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    raise Refused("config.json does not say how many tokens it can read (max_position_embeddings)")
