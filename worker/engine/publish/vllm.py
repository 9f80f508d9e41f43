"""How, and whether, vLLM serves what a job published.

What its LoRA loader takes (vllm/lora/peft_helper.py): no DoRA, no modules_to_save (heads for labels are such), ranks up
to --max-lora-rank; of a config's patterns of single layers it reads none, and scales all layers by the one α / r.
"""

import shlex

from api.spec.resolve import ResolvedRecipe
from worker.engine.publish.markdown import code, fenced

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank may be."""


def vllm(recipe: ResolvedRecipe, *, experts: bool = False) -> str:
    """Markdown for the model card. `experts`: the adapter is on tensors of experts."""
    technique = recipe.technique
    if recipe.method.output != "tokens":
        if technique.type == "full":
            return "vLLM serves it as a pooling model where it knows the family."
        return f"vLLM takes no adapter with a head of its own. {_merged(recipe)}"
    if technique.type == "full":
        return fenced("vllm serve path/to/this/folder", "sh")
    why = _why_not(recipe)
    if experts:
        why = "vLLM loads no adapters on the tensors of a mixture of experts (`target_parameters`)."
    if why is not None:
        return f"{why} {_merged(recipe)}"
    rank = _rank(recipe)
    flags = [] if rank == 16 else ["--max-lora-rank", str(rank)]
    command = ["vllm", "serve", "path/to/the/base/model", "--enable-lora", *flags]
    lines = fenced(shlex.join([*command, "--lora-modules", "tuned=path/to/this/folder"]), "sh")
    note = "Ask it for the model `tuned`. Of families for which vLLM has no LoRA it serves the merged model. "
    quantised = (
        "\n\nThe base was in four bits while this was trained; vLLM computes with the base as it is given, so that its "
        "answers may differ a little."
    )
    return f"{lines}\n\n{note}{_merged(recipe)}" + quantised * technique.quantises


def _why_not(recipe: ResolvedRecipe) -> str | None:
    technique = recipe.technique
    if technique.peft_type != "LORA":
        return f"vLLM serves LoRA adapters only, not those of {code(technique.type)}."
    config = technique.as_published().peft()
    if config.get("use_dora"):
        return "vLLM refuses DoRA adapters."
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        return (
            "**Do not serve this adapter with vLLM**: it ignores `rank_pattern` and `alpha_pattern`, and would scale "
            "those layers wrongly without a word."
        )
    if int(config["r"]) > LORA_RANKS[-1]:
        return f"vLLM's adapters have ranks up to {LORA_RANKS[-1]}, and this one has {config['r']}."
    return None


def _rank(recipe: ResolvedRecipe) -> int:
    """The least --max-lora-rank that holds it."""
    rank = int(recipe.technique.as_published().peft()["r"])
    return next(legal for legal in LORA_RANKS if legal >= rank)


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
