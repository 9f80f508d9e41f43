"""Merges the published adapter into its base's weights."""

from pathlib import Path

import torch
from peft import PeftModel

from api.spec.resolve import ResolvedRecipe
from worker.engine.model.adapters import network_of
from worker.engine.model.load import copy_quantized_weights, load_published
from worker.engine.publish.export import MERGED, copy_tokenizer, name_dropout, write_stops
from worker.rows.generation_ends import tokenizer_and_ends


def export_merged(folder: Path, base: Path, recipe: ResolvedRecipe, device: torch.device) -> Path:
    """Merge the adapter in `folder` into the base's weights, write the whole model to `folder/merged`, and return that
    folder.

    The merged weights have the base's stored type. If the base was quantized, the adapter is merged into the
    dequantized 4-bit weights, with which it was trained on `device`. All else is computed on the CPU.
    """
    model = load_published(folder, base, recipe, torch.device("cpu"), dtype="auto", quantized=False)
    assert isinstance(model, PeftModel), type(model)
    if recipe.technique.quantizes:
        copy_quantized_weights(model, base, recipe, device)
    _untie(model)
    merged = folder / MERGED
    model.merge_and_unload(safe_merge=True).save_pretrained(merged)
    name_dropout(base, merged)
    copy_tokenizer(base, merged)
    if recipe.method.output == "tokens":
        write_stops(merged, sorted(tokenizer_and_ends(base.resolve())[1].stops))
    return merged


def _untie(model: PeftModel) -> None:
    """Give tied input and output embeddings a matrix each if the adapter updates one of them.

    Merging the update into a shared matrix would change both.
    """
    network = network_of(model)
    layers = [network.get_input_embeddings(), network.get_output_embeddings()]
    if None in layers or not any(hasattr(layer, "base_layer") for layer in layers):
        return
    embedding, head = (getattr(layer, "base_layer", layer) for layer in layers)
    if embedding.weight is head.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        network.config.get_text_config().tie_word_embeddings = network.config.tie_word_embeddings = False
