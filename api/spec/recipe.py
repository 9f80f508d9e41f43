"""The recipe, the request body of a job.

"auto" values are resolved in two steps. Those that depend on the data (epochs, batch size, learning rate, lengths,
intervals) are resolved by `api.spec.resolve` after the rows are counted. Those that depend on the hardware (precision,
recomputation, micro-batch) are resolved by the worker that trains the job. Once an attempt has saved a state, they are
kept, so that a resumed run repeats the interrupted one.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from api.spec.evals.job_eval import JobEval
from api.spec.fields import AUTO, Auto, AutoOrNull, NulFreeModel, OrNull, StrictModel
from api.spec.formats import FORMATS
from api.spec.methods import Hyperparameters, Method, Supervised
from api.spec.outputs import Export, Integrations
from api.spec.techniques import Lora, Technique

MIN_EXAMPLES = 10
"""Minimum number of training examples, as at OpenAI."""

Precision = Literal["bfloat16", "float32"]
Scheduler = Literal["cosine", "linear", "constant"]
Overlong = Literal["truncate", "drop", "error"]
Reasoning = Literal["auto", "keep", "last", "drop"]


class EarlyStopping(StrictModel):
    patience: Annotated[int, Field(ge=1)] = 3
    """Number of successive evaluations without an improvement of the validation loss after which training stops."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Smallest decrease of the validation loss, in nats per token, that counts as an improvement."""


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"unknown row format: use {', '.join(FORMATS)}")
    return name


KnownFormat = Annotated[str, AfterValidator(_known_format), Field(json_schema_extra={"enum": [*FORMATS]})]


class Training(StrictModel):
    learning_rate: AutoOrNull[Annotated[float, Field(gt=0)]] = AUTO
    """Peak learning rate. Excludes `learning_rate_multiplier`."""
    format: AutoOrNull[KnownFormat] = AUTO
    """Format of the rows. "auto": detected from the rows' keys."""
    max_length: AutoOrNull[Annotated[int, Field(ge=8)]] = AUTO
    """Maximum tokens of an example. "auto": the longest row, at most the model's context window."""
    overlong: Overlong = "truncate"
    """Treatment of rows longer than `max_length`: "truncate" cuts their end, "drop" leaves them out, and "error" fails
    the job and names the first one. Prompts to be answered and the pairs of a reward model are never cut: "truncate"
    leaves them out."""
    reasoning: Reasoning = AUTO
    """Answers whose reasoning (`reasoning_content`, or `<think>…</think>` at the start of the content) is rendered and
    trained: all ("keep"), those after the last user message ("last"), or none ("drop"). "auto": those whose reasoning
    the base model's chat template renders."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of optimizer steps; null: no limit but the epochs."""
    scheduler: Scheduler = "cosine"
    """Decay of the learning rate after the warm-up: to zero along a cosine or a line, or none."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Share of all steps over which the learning rate rises linearly from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """λ of AdamW's decoupled weight decay: each step multiplies matrices by 1 - λ · learning rate, which pulls them
    towards 0. (IA)³'s scales are pulled towards 1, their neutral value. Biases and norms do not decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Maximum global L2 norm of the gradients. Larger gradients are scaled down to it; null: no clipping."""
    precision: Auto[Precision] = AUTO
    """Data type of the frozen weights and the computation. Trained weights are always float32. "auto": bfloat16 if the
    machine computes in it at least as fast as in float32, else float32. GPUs do from compute capability 8.0."""
    gradient_checkpointing: Auto[bool] = AUTO
    """Recompute activations in the backward pass, which takes much less memory and more time. "auto": only if memory is
    too small for an eighth of the usual micro-batch without it."""
    micro_batch_tokens: Auto[Annotated[int, Field(ge=8)]] = AUTO
    """Maximum number of tokens in a micro-batch. A step accumulates the gradients of several micro-batches until it has
    `batch_size` examples. "auto": as many as fit, at most 2,048 on a CPU and 16,384 on a GPU, but at least the longest
    example."""
    validation_split: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the training rows that is held out for validation, drawn with the job's seed. Excludes
    `validation_file`."""
    eval_every: AutoOrNull[Annotated[int, Field(ge=1)]] = AUTO
    """Optimizer steps between evaluations. "auto": a tenth of the training. An evaluation uses up to 256 validation
    rows, drawn with the job's seed (in proportion to their labels, if they have labels)."""
    save_every: AutoOrNull[Annotated[int, Field(ge=1)]] = AUTO
    """Optimizer steps between saved states, from which an interrupted run resumes. "auto": every three minutes, and at
    the end of each epoch."""
    early_stopping: EarlyStopping | None = None
    """Stop training when the validation loss no longer improves; null: train to the end."""
    keep_best: Auto[bool] = AUTO
    """Whether to publish the weights with the lowest validation loss instead of the last ones, which OpenAI publishes.
    "auto": true if there is validation data."""


class Resources(StrictModel):
    gpus: Auto[Annotated[int, Field(ge=0, le=1)]] = AUTO
    """GPUs that the job needs, at most 1. "auto": 1 if the workers have GPUs."""


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


def _null_is_supervised(value: object) -> object:
    return {"type": "supervised"} if value is None else value


def _with_hyperparameters(method: object, given: dict[str, object]) -> object:
    """Return the method with the values of the deprecated field `hyperparameters` filled in.

    Some clients send both. Raise ValueError if their values conflict.
    """
    if not isinstance(method, dict) or not isinstance(method.get("type"), str):
        return method  # its own validation rejects it
    options = method.get(method["type"])
    if not isinstance(options, dict | None):
        return method
    own = (options or {}).get("hyperparameters")
    own = own if isinstance(own, dict) else {}
    explicit = {name: value for name, value in given.items() if value not in (None, AUTO)}
    for name, value in explicit.items():
        if own.get(name) not in (None, AUTO, value):
            field = f"method.{method['type']}.hyperparameters.{name}"
            raise ValueError(f"hyperparameters.{name} is {value}, but {field} is {own[name]}: give one of them")
    return {**method, method["type"]: {**(options or {}), "hyperparameters": {**own, **explicit}}}


MAX_EVALS = 4


class Recipe(NulFreeModel):
    """The body of `POST /v1/fine_tuning/jobs`: OpenAI's fields, and Attune's own `technique`, `training`, `export`,
    `resources`, `evals` and `priority`."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    """A base model, or a fine-tuned model or checkpoint to continue."""
    training_file: Annotated[str, Field(min_length=1, max_length=64)]
    """Id of the file with the training rows."""
    validation_file: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Id of the file with the validation rows. Excludes `training.validation_split`."""
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Part of the fine-tuned model's id. Characters other than letters, digits, dots and hyphens become hyphens."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    """Seed of the order of the rows, the initial weights and all samples; null: drawn at random."""
    metadata: Metadata | None = None
    """Up to 16 pairs of names and values of your own. Lists of jobs can be filtered by them."""
    integrations: Integrations | None = None
    """Trackers that the metrics are also sent to, if the operator has configured them."""
    hyperparameters: Hyperparameters | None = None
    """Deprecated by OpenAI in favor of `method`, but still sent by many clients."""
    method: Annotated[Method, BeforeValidator(_null_is_supervised)] = Field(default_factory=Supervised)
    """The training method, which decides what is optimized, and its options."""
    technique: Technique = Field(default_factory=Lora)
    """The technique, which decides which weights are trained, and its options. Default: the technique of the fine-tuned
    model that the job continues, or LoRA."""
    training: OrNull[Training] = Field(default_factory=Training)
    """Options of the training loop."""
    export: OrNull[Export] = Field(default_factory=Export)
    """Forms in which the model is published, besides the trained weights."""
    resources: OrNull[Resources] = Field(default_factory=Resources)
    """Hardware that the job needs."""
    evals: Annotated[list[JobEval], Field(max_length=MAX_EVALS)] | None = None
    """Evals that run on the fine-tuned model once the job has succeeded."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Order among the waiting jobs of the same project; higher values first."""

    @property
    def overlong(self) -> Overlong:
        """Treatment of rows longer than `training.max_length`.

        A reward model scores an answer at the answer's end, which truncation would cut off. The pairs of a reward model
        are therefore dropped instead of truncated.
        """
        requested = self.training.overlong
        return "drop" if requested == "truncate" and self.method.output == "reward" else requested

    def publishes_merged(self, parameters: int, largest: int) -> bool:
        """Return whether merged weights are published.

        `parameters` is the size of the base model, `largest` the server's `merged_max_parameters`.
        """
        if not self.technique.merges or self.export.merged != AUTO:
            return self.technique.merges and self.export.merged is True
        loads_as_adapter = self.method.output == "tokens" and self.technique.vllm_refusal() is None
        return not loads_as_adapter and parameters <= largest

    @model_validator(mode="before")
    @classmethod
    def _null_is_no_technique(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("technique", ...) is None:
            return {name: value for name, value in data.items() if name != "technique"}
        return data

    @model_validator(mode="before")
    @classmethod
    def _old_hyperparameters_become_the_method(cls, data: object) -> object:
        if not isinstance(data, dict) or not isinstance(data.get("hyperparameters"), dict):
            return data
        hyperparameters, rest = data["hyperparameters"], {**data, "hyperparameters": None}
        if rest.get("method") is None:
            return {**rest, "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}
        if all(value in (None, AUTO) for value in hyperparameters.values()):
            return rest
        return {**rest, "method": _with_hyperparameters(rest["method"], hyperparameters)}

    @model_validator(mode="after")
    def _evals_need_answers(self) -> Self:
        if self.evals and self.method.output != "tokens":
            raise ValueError(f"evals: a model of '{self.method.type}' gives no answers to grade: leave evals out")
        return self

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        hyperparameters, training = self.method.options.hyperparameters, self.training
        if AUTO not in (training.learning_rate, hyperparameters.learning_rate_multiplier):
            raise ValueError("training.learning_rate excludes learning_rate_multiplier: give one of them")
        has_validation = self.validation_file is not None or training.validation_split > 0
        if self.validation_file is not None and training.validation_split > 0:
            raise ValueError("training.validation_split excludes validation_file: give one of them")
        interval = self.method.evaluation_interval
        if AUTO not in (training.eval_every, interval):
            raise ValueError("training.eval_every excludes eval_interval: give one of them")
        for requested, field in (
            (training.early_stopping is not None, "training.early_stopping"),
            (training.keep_best is True, "training.keep_best"),
            (training.eval_every != AUTO, "training.eval_every"),
            (interval != AUTO, "hyperparameters.eval_interval"),
        ):
            if requested and not has_validation:
                raise ValueError(f"{field} needs validation data: give validation_file or validation_split")
        if training.reasoning != AUTO and not any(FORMATS[name].has_answers for name in self.method.formats):
            raise ValueError(
                f"training.reasoning: '{self.method.type}' does not train on the answers in its rows: "
                "leave reasoning out"
            )
        if training.format != AUTO and training.format not in self.method.formats:
            legal = ", ".join(sorted(self.method.formats))
            raise ValueError(f"training.format: '{self.method.type}' cannot train on '{training.format}': give {legal}")
        return self

    @property
    def technique_given(self) -> bool:
        return "technique" in self.model_fields_set
