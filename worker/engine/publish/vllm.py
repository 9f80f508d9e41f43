"""How, and whether, vLLM serves what a job published.

What its LoRA loader takes (vllm/lora/peft_helper.py): no DoRA, no modules_to_save (heads for labels are such), ranks up
to --max-lora-rank; of a config's patterns of single layers it reads none, and scales all layers by the one α / r.
"""

import shlex

from api.spec.resolve import ResolvedRecipe
from worker.engine.publish.markdown import fenced


def vllm(recipe: ResolvedRecipe, *, experts: bool = False) -> str:
    """Markdown for the model card. `experts`: the adapter is on tensors of experts."""
    technique = recipe.technique
    if recipe.method.output != "tokens":
        if technique.whole_model:
            return "vLLM serves it as a pooling model where it knows the family."
        return f"vLLM takes no adapter with a head of its own. {_merged(recipe)}"
    if technique.whole_model:
        return fenced("vllm serve path/to/this/folder", "sh")
    why = technique.vllm_refusal()
    if experts:
        why = "vLLM loads no adapters on the tensors of a mixture of experts (`target_parameters`)."
    if why is not None:
        return f"{why} {_merged(recipe)}"
    command = ["vllm", "serve", "path/to/the/base/model", "--enable-lora", *technique.vllm_flags()]
    lines = fenced(shlex.join([*command, "--lora-modules", "tuned=path/to/this/folder"]), "sh")
    note = "Ask it for the model `tuned`. Of families for which vLLM has no LoRA it serves the merged model. "
    quantised = (
        "\n\nThe base was in four bits while this was trained; vLLM computes with the base as it is given, so that its "
        "answers may differ a little."
    )
    return f"{lines}\n\n{note}{_merged(recipe)}" + quantised * technique.quantizes


def _merged(recipe: ResolvedRecipe) -> str:
    if not recipe.technique.merges:
        return "It cannot be merged into the base's weights either: serve it with transformers."
    if recipe.merged:
        return (
            "The merged model was published, too: "
            f"`attune adapters download {recipe.job_id} --merged --output merged`, then `vllm serve merged`."
        )
    return (
        'To serve the merged model: `"export": {"merged": true}` in a job publishes it, and '
        "`model.merge_and_unload().save_pretrained(…)` makes it of the model loaded above."
    )
