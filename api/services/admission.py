"""Admission of jobs: the checks before a job's row is inserted, for single jobs and for stages of pipelines."""

import json
import secrets

from sqlalchemy.orm import Session

from api.context import Caller, Context
from api.errors import InvalidRequest
from api.estimate.machine_fields import may_recompute
from api.estimate.shapes import untrained_experts
from api.infra import tracker_registry
from api.records import base_models, evals, events, job_metadata, trackings
from api.records.base import db_now
from api.records.base_models import BaseModelRow
from api.records.jobs import Job
from api.services import eval_runs, graders, judges, lineage
from api.services.files import require_usable
from api.services.lineage import NO_PENDING, Origin, Pending
from api.spec import catalog
from api.spec.fields import AUTO, JsonObject
from api.spec.ids import new_id, random_letters, slug
from api.spec.lifecycle import JobStatus
from api.spec.methods.base import ModelUse
from api.spec.outputs import GGUF_FAMILIES
from api.spec.recipe import Recipe
from api.spec.resolve import MIN_ROW_TOKENS, max_row_tokens

MAX_RECIPE_BYTES = 64 * 1024


class UnsupportedCombination(InvalidRequest):
    """The technique or the method cannot be used with the base model."""

    code = "unsupported_combination"


class InvalidRewardModel(InvalidRequest):
    """The named reward model cannot give rewards in this job."""

    code = "invalid_reward_model"


class NoSuchEval(InvalidRequest):
    code = "eval_not_found"

    def __init__(self, eval_id: str, param: str) -> None:
        super().__init__(f"{param}: no such eval: {eval_id}", param=param)


def validate(
    context: Context, session: Session, caller: Caller, recipe: Recipe, origin: Origin, pending: Pending = NO_PENDING
) -> None:
    """Raise InvalidRequest for everything that can be wrong with a recipe before its rows are read.

    The layers that the technique names are checked elsewhere (api.services.layers), while no session is open. `recipe`
    already has the technique that it inherits (api.services.lineage.inherit_technique).
    """
    if refused := catalog.refusal(recipe.technique, recipe.method, origin.base.facts):
        raise UnsupportedCombination(refused.message, param=refused.param)
    _check_options(recipe, origin)
    _check_integrations(context, recipe)
    _check_export(recipe, origin.base)
    _check_hub(context, recipe)
    _check_context_window(recipe, origin.base)
    _check_recomputation(recipe, origin.base)
    _check_named_models(context, session, caller, recipe, origin.base, pending)
    require_usable(session, caller, recipe.training_file, purpose="fine-tune", param="training_file")
    if recipe.validation_file is not None:
        require_usable(session, caller, recipe.validation_file, purpose="fine-tune", param="validation_file")
    for number, wanted in enumerate(recipe.evals or ()):
        if evals.get(session, caller.project_id, wanted.eval_id) is None:
            raise NoSuchEval(wanted.eval_id, f"evals.{number}.eval_id")
        source, limit = f"evals.{number}.source.id", context.settings.max_eval_bytes
        require_usable(session, caller, wanted.source.id, purpose="evals", param=source, max_bytes=limit)
        eval_runs.require_answers(
            context, origin.base, wanted.sampling_params, f"evals.{number}.sampling_params", f"evals.{number}"
        )


def insert_job(
    context: Context,
    session: Session,
    caller: Caller,
    recipe: Recipe,
    origin: Origin,
    *,
    pending: Pending = NO_PENDING,
    **values: str,
) -> Job:
    """Validate the recipe and insert its job with the first events, in the caller's transaction.

    `recipe` already has the technique that it inherits. The caller holds `origin` (api.services.lineage.hold).
    `values`: other columns. Raise InvalidRequest if the job would be refused.
    """
    validate(context, session, caller, recipe, origin, pending)
    suffix = slug(recipe.suffix) if recipe.suffix else ""
    stored = recipe.model_dump(mode="json")
    _require_small(stored)
    job = Job(
        id=new_id("ftjob-"),
        project_id=caller.project_id,
        key_id=caller.key_id,
        status=JobStatus.VALIDATING_FILES,
        created_at=db_now(),
        recipe=stored,
        method=recipe.method.type,
        base_model=origin.base.name,
        parent_model=None if origin.producing_job is None else recipe.model,
        base_weights=origin.base_weights,
        training_file=recipe.training_file,
        validation_file=recipe.validation_file,
        seed=secrets.randbelow(2**31) if recipe.seed is None else recipe.seed,
        priority=recipe.priority,
        model_id=f"ft:{origin.base.name}:{context.settings.organization}:{suffix}:{random_letters(8)}",
        rung_at=db_now(),
        **values,
    )
    session.add(job)
    session.flush()
    events.add_event(session, job.id, f"Created fine-tuning job: {job.id}")
    warning = untrained_experts(recipe.technique, recipe.method, origin.base.facts)
    if origin.technique is None and warning:
        events.add_event(session, job.id, warning, level="warn")
    plan_trackings(context, session, job.id, recipe)
    session.refresh(job)
    job_metadata.add(session, job.project_id, job.id, job.created_at, recipe.metadata or {})
    return job


def plan_trackings(context: Context, session: Session, job_id: str, recipe: Recipe) -> None:
    """Insert an export task for each of the job's integrations, and for each other tracker that the operator
    configured."""
    for number, integration in enumerate(recipe.integrations or ()):
        trackings.add(session, job_id, "wandb", number, integration.wandb.model_dump(mode="json"))
    for name in tracker_registry.configured(context.settings):
        if name != "wandb":
            trackings.add(session, job_id, name)


def _require_small(recipe: JsonObject) -> None:
    """Raise InvalidRequest for a large recipe.

    Large recipes would slow down everything: a page of jobs holds up to a thousand recipes, and every claim reads one.
    """
    size = len(json.dumps(recipe))
    if size > MAX_RECIPE_BYTES:
        raise InvalidRequest(
            f"The job's description has {size} bytes as JSON, and may have {MAX_RECIPE_BYTES}: shorten its longest "
            f"field, `{max(recipe, key=lambda name: len(json.dumps(recipe[name])))}`",
            code="recipe_too_large",
        )


def _check_options(recipe: Recipe, origin: Origin) -> None:
    """Raise UnsupportedCombination for an option of the method that would have no effect."""
    problem = AUTO if origin.labels is None else origin.labels.problem
    if (idle := recipe.method.idle_option(problem)) is not None:
        param = f"method.{recipe.method.type}.{idle[0]}"
        raise UnsupportedCombination(f"{param} would change nothing: {idle[1]}. Leave it out", param=param)


def _check_integrations(context: Context, recipe: Recipe) -> None:
    if recipe.integrations and "wandb" not in tracker_registry.configured(context.settings):
        raise InvalidRequest(
            "This server cannot send metrics to Weights & Biases: leave integrations out, or ask the operator to set "
            "ATTUNE_WANDB_API_KEY (or ATTUNE_WANDB_MODE=offline, which needs no key)",
            param="integrations",
            code="integration_not_configured",
        )


def _check_export(recipe: Recipe, base: BaseModelRow) -> None:
    technique, export = recipe.technique, recipe.export
    options = {"export.merged": export.merged is True, "export.gguf": export.gguf is not None}
    for param in (name for name, requested in options.items() if requested):
        if not (technique.merges or technique.whole_model):
            legal = ", ".join(name for name, entry in catalog.TECHNIQUES.items() if entry.merges)
            raise InvalidRequest(
                f"{param}: the weights that the technique '{technique.type}' trains cannot be merged into the base: "
                f"choose another technique ({legal}, or full), or leave {param} out",
                param=param,
                code="cannot_merge",
            )
    family = base.facts["model_type"]
    if export.gguf is not None and (family not in GGUF_FAMILIES or recipe.method.output != "tokens"):
        raise InvalidRequest(
            f"export.gguf: GGUF files are verified only for language models of the families "
            f"{', '.join(GGUF_FAMILIES)}. {base.name} is of the family {family}, and a model of the method "
            f"'{recipe.method.type}' outputs {recipe.method.output}: leave export.gguf out",
            param="export.gguf",
            code="unsupported_combination",
        )


def _check_hub(context: Context, recipe: Recipe) -> None:
    hub, settings = recipe.export.hub, context.settings
    if hub is None:
        return
    if not settings.pushes:
        raise InvalidRequest(
            "This server cannot push to a hub: leave export.hub out, or ask its operator to set ATTUNE_HUB_TOKEN and "
            "ATTUNE_HUB_NAMESPACE",
            param="export.hub",
            code="hub_not_configured",
        )
    if hub.repository.partition("/")[0] != settings.hub_namespace:
        raise InvalidRequest(
            f"export.hub.repository: this server pushes to {settings.hub_namespace}/… only",
            param="export.hub.repository",
            code="hub_namespace_not_allowed",
        )


def _check_context_window(recipe: Recipe, base: BaseModelRow) -> None:
    """Raise InvalidRequest if the method and the technique leave too few tokens of the base model's context window for
    the rows."""
    window = base.facts["context_window"]
    if max_row_tokens(recipe.method, recipe.technique, window) >= MIN_ROW_TOKENS:
        return
    fields = [f"method.{recipe.method.type}.max_tokens"] * recipe.method.rollouts
    fields += ["technique.tokens"] * (recipe.technique.virtual_tokens > 0)
    raise InvalidRequest(
        f"{base.name} has a context window of {window:,} tokens, and {' and '.join(fields)} leave no room for the "
        "rows: lower the value",
        param=fields[0],
        code="window_too_small",
    )


def _check_recomputation(recipe: Recipe, base: BaseModelRow) -> None:
    if recipe.training.gradient_checkpointing is not True or may_recompute(recipe.technique, base.facts):
        return
    reason = f"transformers cannot recompute activations in models of the family {base.facts['model_type']}"
    if not recipe.technique.recomputes:
        reason = f"'{recipe.technique.type}' cannot be trained with recomputed activations"
    raise InvalidRequest(
        f'training.gradient_checkpointing: {reason}: leave it out, or give false or "auto"',
        param="training.gradient_checkpointing",
        code="unsupported_combination",
    )


def _check_named_models(
    context: Context, session: Session, caller: Caller, recipe: Recipe, base: BaseModelRow, pending: Pending
) -> None:
    if recipe.method.grader is not None:
        graders.require_embedding_model(context, recipe.method.grader, f"method.{recipe.method.type}.grader")
    for use in recipe.method.named_models:
        if use.reads_tokens:
            _check_reward_model(session, caller, use, base, pending)
        else:
            judges.require_model(context, session, caller, use.named, use.param, pending)


def _check_reward_model(session: Session, caller: Caller, use: ModelUse, base: BaseModelRow, pending: Pending) -> None:
    """Raise InvalidRewardModel unless the model can score the sampled tokens of an answer."""
    param, name = use.param, use.model
    producer = lineage.producing_job(session, caller.project_id, name, pending)
    if producer is None:
        raise InvalidRewardModel(
            f"The reward model `{name[:128]}` does not exist here", param=param, code="model_not_found"
        )
    trained_by = producer.recipe["method"]["type"]
    if catalog.METHODS[trained_by].output != "reward":
        raise InvalidRewardModel(
            f"{name} was trained by '{trained_by}': only the model of a 'reward' job gives rewards", param=param
        )
    own = base if producer.base_model == base.name else base_models.get(session, producer.base_model)
    if own is None:  # removed, though checkpoints of a job that failed are left
        raise InvalidRewardModel(
            f"The base model of {name}, {producer.base_model}, was removed", param=param, code="model_not_found"
        )
    if not _same_tokenizer(base, own):
        raise InvalidRewardModel(
            f"{name} was trained on {own.name}, whose tokenizer differs from that of {base.name}: "
            "train a reward model on a base with the same tokenizer, or use a score_model grader, which reads text",
            param=param,
        )


def _same_tokenizer(base: BaseModelRow, other: BaseModelRow) -> bool:
    """Return whether the base models have the same tokenizer.

    A published model has the tokenizer of its base model, byte for byte.
    """
    own_hashes, other_hashes = (
        [artifact["sha256"] for artifact in row.artifacts if artifact["name"] == "tokenizer.json"]
        for row in (base, other)
    )
    return base.name == other.name or own_hashes == other_hashes
