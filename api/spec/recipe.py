"""The recipe: what a job may say (`Recipe`), and the same with every "auto" resolved (`ResolvedRecipe`).

Two things decide an "auto". What depends on the data (epochs, batch, learning rate, lengths, intervals) is resolved by
`resolve` once the rows are counted; what depends on the hardware (precision, recomputation, micro-batch) by the first
worker that trains the job, and kept for every later attempt, so that a resumed run repeats the interrupted one.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from api.spec.fields import AUTO, Auto, AutoOrNull, NulFreeModel, OrNull, StrictModel
from api.spec.formats import FORMATS
from api.spec.methods import Hyperparameters, Method, Supervised
from api.spec.outputs import Export, Integrations
from api.spec.techniques import Lora, Technique

MIN_EXAMPLES = 10
"""OpenAI refuses fewer training examples."""

Precision = Literal["bfloat16", "float32"]
Scheduler = Literal["cosine", "linear", "constant"]
Overlong = Literal["truncate", "drop", "error"]
Reasoning = Literal["auto", "keep", "last", "drop"]


class EarlyStopping(StrictModel):
    patience: Annotated[int, Field(ge=1)] = 3
    """Evaluations without improvement of the validation loss before training stops."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """How much lower (nats per token) counts as an improvement."""


def _known_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"no format of rows: {', '.join(FORMATS)} are")
    return name


KnownFormat = Annotated[str, AfterValidator(_known_format), Field(json_schema_extra={"enum": [*FORMATS]})]


class Training(StrictModel):
    learning_rate: AutoOrNull[Annotated[float, Field(gt=0)]] = AUTO
    """Peak learning rate. Excludes `learning_rate_multiplier`."""
    format: AutoOrNull[KnownFormat] = AUTO
    """What the rows are, where their keys do not tell."""
    max_length: AutoOrNull[Annotated[int, Field(ge=8)]] = AUTO
    """Tokens per example. "auto": the longest row, at most the model's window."""
    overlong: Overlong = "truncate"
    """What becomes of longer rows: cut at the end, left out, or the job fails and names the first of them. Prompts to
    be answered, and the pairs of a reward model, are never cut: they are left out where others would be cut."""
    reasoning: Reasoning = AUTO
    """Which answers' reasoning (`reasoning_content`, or `<think>…</think>` at the head of a content) is rendered and
    learnt: that of all ("keep"), of those after the last user's message ("last"), or of none ("drop"). "auto": what the
    base model's chat template shows."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Ends training after so many optimizer steps, if the epochs have not ended it before."""
    scheduler: Scheduler = "cosine"
    """How the learning rate falls after the warm-up: to zero along a cosine or a line, or not at all."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Share of all steps over which the learning rate rises linearly from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Share of the learning rate by which each step pulls matrices towards 0, and (IA)³'s scales towards 1, where they
    change nothing. Biases and norms do not decay."""
    """AdamW's decoupled decay, on matrices only."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients with a larger global L2 norm are scaled down to it; null clips nothing."""
    precision: Auto[Precision] = AUTO
    """Of the frozen weights and the computation; what is trained is always kept in float32. "auto": bfloat16 where the
    machine computes in it. A GPU does so from compute capability 8.0 on; an older one refuses it."""
    gradient_checkpointing: Auto[bool] = AUTO
    """Recompute activations in the backward pass: slower, and much less memory. "auto": where no micro-batch fits
    otherwise."""
    micro_batch_tokens: Auto[Annotated[int, Field(ge=8)]] = AUTO
    """Tokens that pass through the model at once; gradients are accumulated up to `batch_size` examples. "auto": what
    fits, at most 2,048 on a CPU and 16,384 on a GPU, or the longest example."""
    validation_split: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the training rows, drawn with the job's seed, held out when there is no validation file."""
    eval_every: AutoOrNull[Annotated[int, Field(ge=1)]] = AUTO
    """Optimizer steps between evaluations on the validation rows, or on 256 of them: drawn with the job's seed, each
    label in its share where there are labels."""
    save_every: AutoOrNull[Annotated[int, Field(ge=1)]] = AUTO
    """Optimizer steps between saved states, from which an interrupted run goes on."""
    early_stopping: EarlyStopping | None = None
    keep_best: Auto[bool] = AUTO
    """Publish the weights of the evaluation with the lowest validation loss. "auto": where there is validation data.
    false publishes those of the last step, as OpenAI does."""


class Resources(StrictModel):
    gpus: Auto[Annotated[int, Field(ge=0, le=1)]] = AUTO
    """GPUs the job needs; "auto": one where the workers have GPUs. More than one is not supported yet."""


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


def _null_is_supervised(value: Any) -> Any:
    return {"type": "supervised"} if value is None else value


def _with_hyperparameters(method: Any, given: dict[str, Any]) -> Any:
    """The method with those of the deprecated field, where it says nothing else; clients send both."""
    if not isinstance(method, dict) or not isinstance(method.get("type"), str):
        return method  # which is refused by itself
    options = method.get(method["type"])
    if not isinstance(options, dict | None):
        return method
    own = (options or {}).get("hyperparameters")
    own = own if isinstance(own, dict) else {}
    said = {name: value for name, value in given.items() if value not in (None, AUTO)}
    for name, value in said.items():
        if own.get(name) not in (None, AUTO, value):
            place = f"method.{method['type']}.hyperparameters.{name}"
            raise ValueError(f"hyperparameters.{name} is {value}, and {place} is {own[name]}: give one of them")
    return {**method, method["type"]: {**(options or {}), "hyperparameters": {**own, **said}}}


class Recipe(NulFreeModel):
    """The body of `POST /v1/fine_tuning/jobs`: OpenAI's fields, and technique, training, resources, priority."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    training_file: Annotated[str, Field(min_length=1, max_length=64)]
    validation_file: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Becomes part of the fine-tuned model's id; what is no letter, digit, dot or hyphen there becomes a hyphen."""
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    metadata: Metadata | None = None
    integrations: Integrations | None = None
    """Where else the metrics go, if the operator has made that possible."""
    hyperparameters: Hyperparameters | None = None
    """Deprecated by OpenAI in favour of `method`; still what many clients send."""
    method: Annotated[Method, BeforeValidator(_null_is_supervised)] = Field(default_factory=Supervised)
    technique: Technique = Field(default_factory=Lora)
    """Not given, it is that of the model that the job continues, or LoRA."""
    training: OrNull[Training] = Field(default_factory=Training)
    export: OrNull[Export] = Field(default_factory=Export)
    resources: OrNull[Resources] = Field(default_factory=Resources)
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Order among the waiting jobs of the same project; higher first."""

    @property
    def overlong(self) -> Overlong:
        """What becomes of rows longer than `training.max_length`. An answer's reward is read at its end, so that the
        pairs of a reward model are left out rather than cut."""
        asked = self.training.overlong
        return "drop" if asked == "truncate" and self.method.output == "reward" else asked

    @model_validator(mode="before")
    @classmethod
    def _null_is_no_technique(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("technique", ...) is None:
            return {name: value for name, value in data.items() if name != "technique"}
        return data

    @model_validator(mode="before")
    @classmethod
    def _old_hyperparameters_become_the_method(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("hyperparameters"), dict):
            return data
        hyperparameters, rest = data["hyperparameters"], {**data, "hyperparameters": None}
        if rest.get("method") is None:
            return {**rest, "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}}
        if all(value in (None, AUTO) for value in hyperparameters.values()):
            return rest
        return {**rest, "method": _with_hyperparameters(rest["method"], hyperparameters)}

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
        for asked, field in (
            (training.early_stopping is not None, "training.early_stopping"),
            (training.keep_best is True, "training.keep_best"),
            (training.eval_every != AUTO, "training.eval_every"),
            (interval != AUTO, "hyperparameters.eval_interval"),
        ):
            if asked and not has_validation:
                raise ValueError(f"{field} needs validation data: give validation_file or validation_split")
        if training.reasoning != AUTO and not any(FORMATS[name].has_answers for name in self.method.formats):
            raise ValueError(f"training.reasoning: '{self.method.type}' learns no answers of its rows: leave it out")
        if training.format != AUTO and training.format not in self.method.formats:
            legal = ", ".join(sorted(self.method.formats))
            raise ValueError(
                f"training.format: '{self.method.type}' cannot learn from '{training.format}': give {legal}"
            )
        return self

    @property
    def technique_given(self) -> bool:
        return "technique" in self.model_fields_set
