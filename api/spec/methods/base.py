"""The base class of all training methods. Whatever differs between methods is an attribute or a function of this class,
with a default. Torch-free.

The rest of the program uses only these attributes and functions, never a method's name or class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from api.spec.base_model import ModelKind
from api.spec.fields import AUTO, Auto, AutoOrNull, OrNull, StrictModel
from api.spec.graders import GraderBase, NamedModel

Problem = Literal["single_label", "multi_label", "regression"]
"""Kinds of classification labels: one name, several names, or a number."""
Output = Literal["tokens", "labels", "reward"]
"""Outputs of a trained model: probabilities of the next token, scores of labels, or one number for a text."""

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Smoothing = Annotated[float, Field(ge=0, lt=0.5)]


class Hyperparameters(StrictModel):
    """OpenAI's three hyperparameters, which every method has."""

    n_epochs: AutoOrNull[Annotated[int, Field(ge=1, le=50)]] = AUTO
    """Passes over the training rows. "auto": from 1 to 25, more for fewer rows."""
    batch_size: AutoOrNull[Annotated[int, Field(ge=1, le=256)]] = AUTO
    """Examples per optimizer step, independent of the micro-batch. "auto": a power of two up to 64."""
    learning_rate_multiplier: AutoOrNull[Positive] = AUTO
    """Factor of the technique's default learning rate. "auto": 1."""

    auto_defaults: ClassVar[Mapping[str, float]] = {"learning_rate_multiplier": 1.0}
    """Values of "auto" that do not depend on the data."""


class Options(StrictModel):
    """The object `method.<type>`: the hyperparameters, and the method's own parameters beside them."""

    hyperparameters: OrNull[Hyperparameters] = Field(default_factory=Hyperparameters)

    @classmethod
    @cache
    def hyperparameters_class(cls) -> type[Hyperparameters]:
        hyperparameters = cls.model_fields["hyperparameters"].annotation
        assert isinstance(hyperparameters, type), hyperparameters
        assert issubclass(hyperparameters, Hyperparameters), hyperparameters
        return hyperparameters

    def named_models(self) -> Mapping[str, NamedModel]:
        """Return {path of the field: model} for the models that the options name to give rewards."""
        return {}


OptionsClass = type[Options]


class RolloutOptions(Options):
    """Options of the methods that learn from their own samples."""

    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 64
    """Maximum length of a sampled answer, in tokens."""
    temperature: Positive = 1.0
    """Sampling temperature. The trained policy is the model at this temperature."""

    @property
    def num_generations(self) -> int:
        """Number of answers sampled for each prompt."""
        return 1

    @property
    def passes(self) -> int:
        """Number of passes over the sampled answers of one step."""
        return 1


def models_of(grader: GraderBase | None) -> Mapping[str, NamedModel]:
    """Return {path of the field: model} for the models that the option `grader` names."""
    return {} if grader is None else {f"grader.{path}": model for path, model in grader.models().items()}


@dataclass(frozen=True)
class ModelUse:
    """A field of the recipe that names a model for rewards."""

    param: str
    named: NamedModel
    reads_tokens: bool
    """Whether the model is a reward model that reads the sampled tokens of an answer. Otherwise the model reads a text
    that a grader renders."""

    @property
    def model(self) -> str:
        return self.named.name


class MethodBase(StrictModel):
    """A method decides what is optimized, and which formats the rows may have."""

    summary: ClassVar[str]
    """One sentence for the catalogue."""
    formats: ClassVar[frozenset[str]]
    """Names of the row formats that the method accepts (api.spec.formats)."""
    kinds: ClassVar[frozenset[ModelKind]] = frozenset({"causal_lm"})
    """Kinds of base models that the method can train."""
    output: ClassVar[Output] = "tokens"

    # How the method reads rows.
    row_options: ClassVar[frozenset[str]] = frozenset()
    """Names of the options that change the arrays that the rows are converted to."""
    splits_pairs: ClassVar[bool] = False
    """Whether a preference becomes two rows: the better answer, labelled 1, and the worse answer, labelled 0."""
    uses_margins: ClassVar[bool] = False
    """Whether the loss uses the margin of a preference, if the row gives one."""

    # How the method trains.
    rollouts: ClassVar[bool] = False
    """Whether the method learns from answers that the model samples. Its options are then RolloutOptions, and an
    evaluation samples answers, too."""
    takes_reward_model: ClassVar[bool] = False
    """Whether the method has an option `reward_model`, which a pipeline fills in from an earlier stage."""
    value_head: ClassVar[bool] = False
    """Whether the method trains a value function, a linear head that is never published."""
    learning_rate_factor: ClassVar[float] = 1.0
    """Factor of the technique's default learning rate, which is chosen for supervised fine-tuning."""
    full_learning_rate: ClassVar[float | None] = None
    """Peak learning rate of full fine-tuning, from the method's paper. None: the technique's default times
    `learning_rate_factor`."""
    smallest_batch: ClassVar[int] = 1
    """Minimum number of rows in a batch if `batch_size` is "auto". Methods that estimate a quantity from the batch need
    more than one row."""

    # Factors of the estimate.
    reference_passes: ClassVar[float] = 0.0
    """Number of forward passes over each training row for the reference's log-probabilities, which are computed only
    once."""
    extra_passes: ClassVar[float] = 0.0
    """Number of forward passes over the rows of each step, in addition to the passes of the loss."""

    type: str

    @property
    def options(self) -> Options:
        options = getattr(self, self.type)
        assert isinstance(options, Options), options
        return options

    @classmethod
    @cache
    def options_class(cls) -> OptionsClass:
        """Return the class of `options`."""
        options = cls.model_fields[cls.model_fields["type"].default].annotation
        assert isinstance(options, type), options
        assert issubclass(options, Options), options
        return options

    @property
    def rollout_options(self) -> RolloutOptions | None:
        """The options of a method that samples answers; None for other methods."""
        return self.options if isinstance(self.options, RolloutOptions) else None

    @property
    def keeps_reference(self) -> bool:
        """Whether the steps need a copy of the trained weights as they were at step 0."""
        return False

    @property
    def grader(self) -> GraderBase | None:
        """The grader of the sampled answers; None if there is none."""
        grader: GraderBase | None = getattr(self.options, "grader", None)
        return grader

    @property
    def evaluation_interval(self) -> int | Literal["auto"]:
        """Steps between evaluations, if the method's hyperparameters give them."""
        interval: int | Literal["auto"] = getattr(self.options.hyperparameters, "eval_interval", AUTO)
        return interval

    @property
    def problem(self) -> Auto[Problem]:
        """The requested kind of labels of a method whose output is labels."""
        return AUTO

    @property
    def named_models(self) -> Sequence[ModelUse]:
        """The models that the recipe names to give rewards: models of `reward` jobs, and judges."""
        return [
            ModelUse(f"method.{self.type}.{path}", named, reads_tokens=path == "reward_model")
            for path, named in self.options.named_models().items()
        ]

    def idle_option(self, problem: str = AUTO) -> tuple[str, str] | None:
        """Return (name of a given option that would have no effect, reason), or None if there is no such option.

        `problem`: the kind of the labels, if known. Jobs are checked when they are accepted, not when a recipe is
        parsed, because stored jobs may have such options.
        """
        return None

    def row_option_values(self) -> Mapping[str, Any]:
        """Return {name: value} of the options in `row_options`."""
        return {name: getattr(self.options, name) for name in sorted(self.row_options)}
