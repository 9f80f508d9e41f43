"""Loading of a base model with a technique, and with the head that the method needs, as a trainable model."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from peft import PeftModel, get_peft_model_state_dict
from tokenizers import Tokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

from api.spec.lifecycle import FailureReason
from api.spec.resolve import ResolvedRecipe
from api.spec.techniques.base import FourBits
from worker.engine.errors import TrainingError
from worker.engine.model import lora, norms, products
from worker.engine.model.adapters import UNQUANTIZED, heads_of, initialize_prefix, with_technique
from worker.engine.model.attention import PACKED
from worker.engine.model.batches import Layout
from worker.engine.model.families import (
    AutoClass,
    classifies,
    inference_difference,
    kind_of,
    may_be_packed,
    needs_single_rows,
)
from worker.engine.model.modes import disable_training_behavior
from worker.engine.model.target_modules import published_config
from worker.engine.model.trainable import TrainableModel
from worker.rows.special_tokens import special_tokens
from worker.techniques import implementation_of


def load_trainable(
    base: Path,
    recipe: ResolvedRecipe,
    device: torch.device,
    *,
    start: Path | None = None,
    opening: npt.NDArray[np.int32] | None = None,
) -> TrainableModel:
    """Return the base model with the recipe's technique, newly initialized or continued from the adapter in `start`.

    `opening`: first tokens of the training text, for techniques whose initialization needs a text.
    """
    assert recipe.precision != "auto", "precision is resolved before the model is loaded"
    torch.manual_seed(recipe.seed)
    technique = recipe.technique
    _require_same_in_use(checked_config(base))
    network = load_network(base, recipe, device, packed=technique.packable)
    packed = network.config._attn_implementation == PACKED
    reads_whole = kind_of(network.config) == "encoder"
    if recipe.gradient_checkpointing:
        _require_recomputation(network)
        network.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    virtual_tokens = technique.virtual_tokens > 0
    layout = Layout(
        packed=packed,
        single_row=needs_single_rows(network.config) or (virtual_tokens and recipe.method.output != "tokens"),
        shares_prompts=os.environ.get("ATTUNE_SHARED_PROMPTS") != "0",
        pad_token=network.config.pad_token_id if recipe.method.output != "tokens" else None,
    )
    model = with_technique(network, recipe, start)
    if technique.begins_from_text and start is None and opening is not None and not reads_whole:
        assert isinstance(model, PeftModel), type(model)
        initialize_prefix(model, opening)
    trainable = TrainableModel(
        model,
        layout,
        virtual_tokens=virtual_tokens,
        reads_whole=reads_whole,
    )
    trainable.without_update = lora.without_update(model)
    if replaces_layers():
        trainable.restore_layers = _replace_layers(model, device)
    if technique.changes_base:
        adapter = get_peft_model_state_dict(model, save_embedding_layers=False)
        trainable.extras = {name: tensor.detach().clone() for name, tensor in adapter.items()}
    return trainable


def replaces_layers() -> bool:
    """Return whether worker.engine.model.lora, .products and .norms compute the model's layers in training.
    ATTUNE_FAST_LAYERS=0 keeps the libraries' own forward."""
    return os.environ.get("ATTUNE_FAST_LAYERS") != "0"


def _replace_layers(model: nn.Module, device: torch.device) -> Callable[[], None]:
    """Replace the forward of linear layers and, on a GPU, of norms. Return a function that restores the libraries'
    forward."""
    restores = [lora.apply(model), products.replace_linear_layers(model)]
    if device.type == "cuda":
        restores.append(norms.replace_norms(model))

    def restore() -> None:
        for each in restores:
            each()

    return restore


def load_network(
    folder: Path,
    recipe: ResolvedRecipe,
    device: torch.device,
    *,
    packed: bool = False,
    whole: bool = False,
    quantized: bool = True,
    dtype: str | None = None,
) -> PreTrainedModel:
    """Return a language model or a classifier as transformers loads it, quantized if the technique quantizes.

    packed: use the attention for packed rows if the family supports it. whole: the folder holds a fully fine-tuned
    model, with its head. dtype: "auto" keeps the stored type. The base model's own dropout is off in training, too
    (worker.engine.model.modes), so only the technique's dropout makes training differ from inference.
    """
    config = checked_config(folder)
    options: dict[str, object] = {"attn_implementation": PACKED} if packed and may_be_packed(config) else {}
    four_bits = recipe.technique.four_bits if quantized else None
    kind: AutoClass = AutoModelForCausalLM
    heads: list[str] = []
    if recipe.method.output != "tokens":
        if not classifies(config):
            message = f"Models of the family {config.model_type} have no head for labels. Choose another base model."
            raise TrainingError(FailureReason.INVALID_RECIPE, message)
        kind = AutoModelForSequenceClassification
        options |= {} if whole else head_settings(folder, recipe, config)
        heads = [] if four_bits is None else _heads_of_classifier(config)
    if four_bits is not None:
        options["quantization_config"] = quantization_config(four_bits, getattr(torch, str(recipe.precision)), heads)
        options["device_map"] = {"": device}
    loaded, loading = kind.from_pretrained(
        folder,
        dtype=dtype or getattr(torch, str(recipe.precision)),
        trust_remote_code=False,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **options,
    )
    if not recipe.technique.whole_model:
        _require_whole(loading["missing_keys"], within=loaded.base_model_prefix)
    if four_bits is not None and device.type == "cpu":
        _require_blocks_within_rows(loaded, recipe.technique.type)
    network: PreTrainedModel = loaded.to(device)
    disable_training_behavior(network)
    return network


@torch.no_grad()
def copy_quantized_weights(model: PeftModel, base: Path, recipe: ResolvedRecipe, device: torch.device) -> None:
    """Copy the values of the base model, quantized on the device that trained, into the linear layers of an unquantized
    one. A GPU quantizes rows that a CPU cannot."""
    quantized = load_network(base, recipe, device)
    layers = dict(model.get_base_model().named_modules())
    for name, module in quantized.named_modules():
        if isinstance(module, Linear4bit):
            layer = layers[name].get_base_layer() if hasattr(layers[name], "get_base_layer") else layers[name]
            weight: Any = module.weight
            values = dequantize_4bit(weight.data, weight.quant_state)
            layer.weight.copy_(values.T if isinstance(layer, Conv1D) else values)  # GPT-2's are [inputs, outputs]


def _require_blocks_within_rows(model: nn.Module, technique: str) -> None:
    """Raise TrainingError if a block of four-bit weights continues in the next row: bitsandbytes (0.50) on a CPU with
    AVX-512 then applies the scale of another block, and values are wrong by a quarter without an error."""
    for name, weight in model.named_parameters():
        state = getattr(weight, "quant_state", None)
        if state is not None and state.shape[-1] % state.blocksize:
            raise TrainingError(
                FailureReason.INVALID_RECIPE,
                f"Technique {technique} on a worker without a GPU needs layers whose number of inputs is a multiple of "
                f"{state.blocksize}, and {name} has {state.shape[-1]}. Use technique lora, or a worker with a GPU.",
            )


def _require_same_in_use(config: PreTrainedConfig) -> None:
    """Raise TrainingError for a family that differs between training and inference. `attune models add` refuses such
    base models, but earlier releases accepted them."""
    if (otherwise := inference_difference(config)) is not None:
        raise TrainingError(
            FailureReason.INVALID_RECIPE,
            f"Models of the family {config.model_type} {otherwise}: the published model would differ from the "
            "trained one. Choose another base model.",
        )


def _require_recomputation(network: PreTrainedModel) -> None:
    """Raise TrainingError if the family cannot recompute activations. The facts of base models that earlier releases
    added do not record this."""
    if not network.supports_gradient_checkpointing:
        raise TrainingError(
            FailureReason.INVALID_RECIPE,
            f"Models of the family {network.config.model_type} cannot recompute activations. Set "
            "training.gradient_checkpointing to false, and lower training.micro_batch_tokens if memory is short.",
        )


def _require_whole(missing: set[str], *, within: str) -> None:
    """Raise TrainingError if the files lack weights other than those of heads. Weights that the files lack are random.
    Heads are trained and published, but other random weights would be frozen and not published."""
    lacking = sorted(name for name in missing if name.startswith(f"{within}."))
    if lacking:
        raise TrainingError(
            FailureReason.INVALID_RECIPE,
            f"The base model lacks weights that this method needs ({', '.join(lacking)[:200]}). Use technique full, "
            "which trains and publishes them, or choose another base model.",
        )


def load_published(
    folder: Path,
    base: Path | None,
    recipe: ResolvedRecipe,
    device: torch.device,
    *,
    dtype: str | None = None,
    quantized: bool = True,
) -> PreTrainedModel | PeftModel:
    """Return the published model in `folder` as peft or transformers load it, with transformers' own attention.

    base: the folder of the base model, for an adapter.
    """
    if recipe.technique.whole_model:
        network = load_network(folder, recipe, device, whole=True)
        network.set_attn_implementation(plain_attention(network))
        return network
    assert base is not None, "an adapter is loaded onto its base"
    network = load_network(base, recipe, device, dtype=dtype, quantized=quantized)
    network.set_attn_implementation(plain_attention(network))
    if (own := implementation_of(recipe.technique)) is not None:
        return own.load(network, folder)
    return PeftModel.from_pretrained(network, str(folder), config=published_config(folder, network)).to(device)


def plain_attention(network: PreTrainedModel) -> str:
    return "sdpa" if network._supports_sdpa else "eager"


def head_settings(folder: Path, recipe: ResolvedRecipe, config: PreTrainedConfig) -> dict[str, object]:
    """Return the settings of a classifier's config: its labels, and the padding token by which a sequence's last token
    is found."""
    settings: dict[str, object] = {"num_labels": 1}
    if config.pad_token_id is None:
        end = config.eos_token_id
        settings["pad_token_id"] = (
            _tokenizers_padding(folder) if end is None else end[0] if isinstance(end, list) else end
        )
    labels = recipe.labels
    if labels is None:
        return settings
    settings["problem_type"] = {
        "single_label": "single_label_classification",
        "multi_label": "multi_label_classification",
        "regression": "regression",
    }[labels.problem]
    if labels.names:
        names = dict(enumerate(labels.names))
        settings |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
        del settings["num_labels"]  # transformers counts the names
    return settings


def _tokenizers_padding(folder: Path) -> int | None:
    named = special_tokens(folder)
    text = named.get("pad_token") or named.get("eos_token")
    number: int | None = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(text) if text else None
    return number


def checked_config(folder: Path) -> PreTrainedConfig:
    """Return the model's config. Raise TrainingError, before transformers reads the folder, if the model needs code of
    its own, which is never run."""
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.exists() and "auto_map" in json.loads(path.read_bytes()):
            message = "The base model needs code of its own, which is never run. Choose another base model."
            raise TrainingError(FailureReason.INVALID_RECIPE, message)
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if "/" in str(config._attn_implementation):  # transformers would download it; `models add` removes the field
        message = f"The base model's config.json names code on a hub ({config._attn_implementation}). Add the base "
        message += "model again with `attune models add`, which removes that field."
        raise TrainingError(FailureReason.INVALID_RECIPE, message)
    return config


def _heads_of_classifier(config: PreTrainedConfig) -> list[str]:
    with torch.device("meta"):
        return heads_of(AutoModelForSequenceClassification.from_config(config, trust_remote_code=False))


def quantization_config(
    four_bits: FourBits, compute_dtype: torch.dtype, heads: Sequence[str] = ()
) -> BitsAndBytesConfig:
    """Return the settings with which transformers quantizes the frozen base model. `heads`: modules on top of the base
    model that are not quantized, besides those with the names in UNQUANTIZED."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=four_bits.type,
        bnb_4bit_use_double_quant=four_bits.double,
        bnb_4bit_compute_dtype=compute_dtype,
        # "^", because a plain name such as EuroBERT's "dense" would match the end of names in the base model, too.
        llm_int8_skip_modules=[*UNQUANTIZED, *(f"^{head}" for head in heads if head not in UNQUANTIZED)],
    )
