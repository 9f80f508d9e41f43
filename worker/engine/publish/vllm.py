"""The "Serve it with vLLM" section of the model card.

vLLM's LoRA loader (vllm/lora/peft_helper.py) refuses DoRA, `modules_to_save` (in Attune's adapters, classification
heads) and ranks above --max-lora-rank. It ignores rank_pattern and alpha_pattern: all layers have the scale α / r.
"""

import shlex

from api.spec.resolve import ResolvedRecipe
from worker.engine.publish.markdown import fenced


def vllm_section(recipe: ResolvedRecipe, *, experts: bool = False) -> str:
    """Return the section as Markdown. `experts`: the adapter is on the tensors of a mixture of experts."""
    technique = recipe.technique
    if recipe.method.output != "tokens":
        if technique.whole_model:
            return "vLLM serves this model as a pooling model if it supports the model's family."
        return f"vLLM cannot load an adapter that has a head of its own. {_merged(recipe)}"
    if technique.whole_model:
        return fenced("vllm serve path/to/this/folder", "sh")
    reason = technique.vllm_refusal()
    if experts:
        reason = "vLLM loads no adapters on the tensors of a mixture of experts (`target_parameters`)."
    if reason is not None:
        return f"{reason} {_merged(recipe)}"
    command = ["vllm", "serve", "path/to/the/base/model", "--enable-lora", *technique.vllm_flags()]
    lines = fenced(shlex.join([*command, "--lora-modules", "tuned=path/to/this/folder"]), "sh")
    note = "Request the model `tuned`. If vLLM does not support LoRA for this family, serve the merged model. "
    quantized = (
        "\n\nThe base was quantized to 4 bits during training. vLLM computes with the base in its own precision, so "
        "answers may differ slightly."
    )
    return f"{lines}\n\n{note}{_merged(recipe)}" + quantized * technique.quantizes


def _merged(recipe: ResolvedRecipe) -> str:
    if not recipe.technique.merges:
        return "The adapter cannot be merged into the base's weights either. Serve it with transformers."
    if recipe.merged:
        return (
            "The job published the merged model, too: "
            f"`attune adapters download {recipe.job_id} --merged --output merged`, then `vllm serve merged`."
        )
    return (
        'To get the merged model, set `"export": {"merged": true}` in a job, or call '
        "`model.merge_and_unload().save_pretrained(…)` on the model loaded above."
    )
