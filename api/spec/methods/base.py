"""What every method says of itself, without torch."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from api.spec.fields import AUTO, AutoOrNull, OrNull, StrictModel
from api.spec.graders import GraderBase
from api.spec.graders.score_model import ScoreModel

ModelKind = Literal["causal_lm", "encoder"]
"""Of a base model: it predicts the next token, or it reads a text whole, as BERT does."""
Output = Literal["tokens", "labels", "reward"]
"""What a trained model gives: probabilities of the next token, scores of labels, or one number for a text."""

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Smoothing = Annotated[float, Field(ge=0, lt=0.5)]


class Hyperparameters(StrictModel):
    """OpenAI's three, for every method."""

    n_epochs: AutoOrNull[Annotated[int, Field(ge=1, le=50)]] = AUTO
    """Passes over the training rows."""
    batch_size: AutoOrNull[Annotated[int, Field(ge=1, le=256)]] = AUTO
    """Examples per optimizer step, whatever the micro-batching."""
    learning_rate_multiplier: AutoOrNull[Positive] = AUTO
    """Scales the technique's default learning rate."""

    auto_defaults: ClassVar[Mapping[str, float]] = {"learning_rate_multiplier": 1.0}
    """What "auto" means, where it depends on nothing else."""


class Options(StrictModel):
    """What stands in `method.<type>`: the hyperparameters, and the method's own parameters beside them."""

    hyperparameters: OrNull[Hyperparameters] = Field(default_factory=Hyperparameters)


class RolloutOptions(Options):
    """What the methods share that learn from their own samples."""

    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 64
    """Longest answer that is sampled, in tokens."""
    temperature: Positive = 1.0
    """Of the sampling; the policy that is trained is the one at this temperature."""

    @property
    def num_generations(self) -> int:
        """Answers sampled for each prompt of a step."""
        return 1

    @property
    def passes(self) -> int:
        """Passes over the answers of a step."""
        return 1


class MethodBase(StrictModel):
    """A method decides what is optimised, and which formats of rows it can learn from."""

    summary: ClassVar[str]
    formats: ClassVar[frozenset[str]]
    """Names from api.spec.formats."""
    kinds: ClassVar[frozenset[ModelKind]] = frozenset({"causal_lm"})
    """Kinds of base models that it can train."""
    output: ClassVar[Output] = "tokens"
    rollouts: ClassVar[bool] = False
    """It learns from what the model itself samples."""
    learning_rate_factor: ClassVar[float] = 1.0
    """Of the technique's default learning rate, which is the one for imitation."""
    full_learning_rate: ClassVar[float | None] = None
    """Peak learning rate of full fine-tuning, after the method's paper. None: the technique's, times the factor."""
    smallest_batch: ClassVar[int] = 1
    """Rows of an automatic batch at least: what the method estimates from a batch needs as many."""
    row_options: ClassVar[frozenset[str]] = frozenset()
    """Which of its options decide what the rows' arrays hold."""

    @property
    def options(self) -> Options:
        options = getattr(self, self.type)  # type: ignore[attr-defined]  # the literal that every method has
        assert isinstance(options, Options), options
        return options

    @classmethod
    def options_class(cls) -> type[Options]:
        """Return the class of `options`."""
        options = cls.model_fields[cls.model_fields["type"].default].annotation
        assert isinstance(options, type), options
        assert issubclass(options, Options), options
        return options

    @property
    def evaluation_interval(self) -> int | Literal["auto"]:
        """Steps between evaluations, where its hyperparameters say so."""
        interval: int | Literal["auto"] = getattr(self.options.hyperparameters, "eval_interval", AUTO)
        return interval

    def idle_option(self, problem: str = AUTO) -> tuple[str, str] | None:
        """Return (the name of an option that is given and would change nothing, why), if there is one. `problem`: what
        the labels are, once that is known. Asked where a job is accepted, not here: stored jobs may have such options.
        """
        return None

    def chosen(self) -> Mapping[str, Any]:
        """Its row options, as asked for."""
        return {name: getattr(self.options, name) for name in sorted(self.row_options)}


def reward_models(method: MethodBase) -> dict[str, str]:
    """Field of the recipe → the model that it names."""
    options = method.options
    place = f"method.{method.type}"  # type: ignore[attr-defined]  # as above
    found: dict[str, str] = {}
    if name := getattr(options, "reward_model", None):
        found[f"{place}.reward_model"] = name
    grader: GraderBase | None = getattr(options, "grader", None)
    if isinstance(grader, ScoreModel):
        found[f"{place}.grader.model"] = grader.model
    elif grader is not None:
        parts = {name: part for name, part in grader.parts.items() if isinstance(part, ScoreModel)}
        found |= {f"{place}.grader.graders.{name}.model": part.model for name, part in parts.items()}
    return found
