"""The facts about a base model that its attune.json holds."""

from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_PRETRAINING_MAPPING_NAMES, MODEL_MAPPING_NAMES

from api.spec.base_model import BaseModelFacts
from worker.bases.files import Refused
from worker.bases.shapes import shapes_of
from worker.bases.weights import Weights
from worker.engine.model.families import (
    classifies,
    context_window,
    inference_difference,
    keeps_scores,
    kind_of,
    recomputes,
    transformers_class,
)
from worker.rows.chat_template import TEMPLATE_SECONDS, ChatTemplate
from worker.rows.generation_ends import EndTokens
from worker.rows.limits import TooSlow, time_limit
from worker.sampling.call_form import CallForm


def facts_of(
    folder: Path,
    weights: Weights,
    *,
    source: str,
    revision: str | None,
    license_name: str | None,
    dequantised_from: str | None,
) -> BaseModelFacts:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise Refused(f"this version of transformers cannot read the model's config.json: {reason}") from None
    architectures = _architectures(config)
    if (otherwise := inference_difference(config)) is not None:
        raise Refused(
            f"models of the family {config.model_type} {otherwise}: the trained model would compute differently in use"
        )
    text, template = config.get_text_config(), ChatTemplate.load(folder)
    try:
        return BaseModelFacts(
            kind=kind_of(config),
            classifies=classifies(config),
            recomputes=recomputes(config),
            keeps_scores=keeps_scores(config),
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
            chat_template=template is not None,
            tools=template is not None and takes_tools(template),
            end_tokens=sorted(EndTokens.load(folder).stops) if kind_of(config) == "causal_lm" else [],
            dequantised_from=dequantised_from,
            shapes=shapes_of(config),
        )
    except AttributeError as error:
        raise Refused(
            "config.json lacks a field that describes the model's size, such as hidden_size or num_hidden_layers: "
            f"{error}"
        ) from None


def takes_tools(template: ChatTemplate) -> bool:
    """Return whether a sampler will accept tools, and read the calls in answers."""
    try:
        with time_limit(TEMPLATE_SECONDS):
            return CallForm.learn(template, ()) is not None
    except TooSlow:
        return False


def _architectures(config: PreTrainedConfig) -> list[str]:
    """Return the architectures that config.json names. Raise Refused if none of them can be trained."""
    known = transformers_class(config)
    named = list(config.architectures or ([known] if known else []))
    accepted = {known}
    if kind_of(config) == "encoder":  # encoders are also published without a head or with the heads of pre-training
        for names in (MODEL_MAPPING_NAMES, MODEL_FOR_PRETRAINING_MAPPING_NAMES):
            name = names.get(config.model_type)
            accepted |= {name} if isinstance(name, str) else set(name or ())
    whole = config.is_encoder_decoder or (known or "").endswith("ForConditionalGeneration")
    if known is None or whole or not accepted.intersection(named):
        raise Refused(
            f"{', '.join(named) or config.model_type} is neither a model that predicts the next token of a text "
            "(a causal language model) nor an encoder that reads one (such as BERT)"
        )
    return named


def _context_window(config: PreTrainedConfig) -> int:
    if (window := context_window(config)) is None:
        raise Refused("config.json does not give the context length (max_position_embeddings)")
    return window
