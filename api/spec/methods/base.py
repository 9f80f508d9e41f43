"""The base class of all methods: all that a method may differ in, each with a default. Torch-free.

The rest of the program reads these attributes and methods, never a method's name or class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from api.spec.base_model import ModelKind
from api.spec.fields import AUTO, Auto, AutoOrNull, OrNull, StrictModel
from api.spec.graders import GraderBase

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
    def hyperparameters_class(cls) -> type[Hyperparameters]:
        hyperparameters = cls.model_fields["hyperparameters"].annotation
        assert isinstance(hyperparameters, type), hyperparameters
        assert issubclass(hyperparameters, Hyperparameters), hyperparameters
        return hyperparameters

    def reward_models(self) -> Mapping[str, str]:
        """Return the models of reward jobs that the options name, by the path of the field."""
        return {}


OptionsClass = type[Options]


class RolloutOptions(Options):
    """Options of the methods that learn from their own samples."""

    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 64
    """Longest answer that is sampled, in tokens."""
    temperature: Positive = 1.0
    """Sampling temperature; the policy that is trained is the one at this temperature."""

    @property
    def num_generations(self) -> int:
        """Answers sampled for each prompt."""
        return 1

    @property
    def passes(self) -> int:
        """Passes over the sampled answers of one step."""
        return 1


def reward_models_of(grader: GraderBase | None) -> Mapping[str, str]:
    """Return the reward models of the option `grader`, by the path of the field."""
    return {} if grader is None else {f"grader.{path}": name for path, name in grader.reward_models().items()}


@dataclass(frozen=True)
class RewardModelUse:
    """A field of the recipe that names the model of a reward job."""

    param: str
    model: str
    reads_tokens: bool
    """It reads the answers' tokens as they were sampled, and not a text that a grader renders for it."""


class MethodBase(StrictModel):
    """A method decides what is optimized, and which formats of rows it accepts."""

    summary: ClassVar[str]
    """One sentence for the catalogue."""
    formats: ClassVar[frozenset[str]]
    """Names of the formats that it accepts (api.spec.formats)."""
    kinds: ClassVar[frozenset[ModelKind]] = frozenset({"causal_lm"})
    """Kinds of base models that it can train."""
    output: ClassVar[Output] = "tokens"

    # How it reads rows.
    row_options: ClassVar[frozenset[str]] = frozenset()
    """Names of the options that change the rows' arrays."""
    splits_pairs: ClassVar[bool] = False
    """A preference becomes two rows: its better answer, labelled 1, and its worse one, labelled 0."""
    uses_margins: ClassVar[bool] = False
    """The loss uses the margin of a preference, where the row gives one."""

    # How it trains.
    rollouts: ClassVar[bool] = False
    """It learns from answers that the model samples; its options are RolloutOptions."""
    takes_reward_model: ClassVar[bool] = False
    """It has an option `reward_model`, which a pipeline fills in from an earlier stage."""
    keeps_reference: ClassVar[bool] = False
    """It keeps a copy of the trained weights as they were at step 0."""
    value_head: ClassVar[bool] = False
    """It trains a value function, a linear head that is never published."""
    learning_rate_factor: ClassVar[float] = 1.0
    """Factor of the technique's default learning rate, which is the one for supervised fine-tuning."""
    full_learning_rate: ClassVar[float | None] = None
    """Peak learning rate of full fine-tuning, after the method's paper. None: the technique's, times the factor."""
    smallest_batch: ClassVar[int] = 1
    """Fewest rows of an automatic batch: what the method estimates from a batch needs as many."""

    # Factors of the estimate.
    reference_passes: ClassVar[float] = 0.0
    """Forward passes over each row that is trained on, once, for the reference's log-probabilities."""
    extra_passes: ClassVar[float] = 0.0
    """Forward passes over the rows of each step, beside those of the loss."""

    type: str

    @property
    def options(self) -> Options:
        options = getattr(self, self.type)
        assert isinstance(options, Options), options
        return options

    @classmethod
    def options_class(cls) -> OptionsClass:
        """Return the class of `options`."""
        options = cls.model_fields[cls.model_fields["type"].default].annotation
        assert isinstance(options, type), options
        assert issubclass(options, Options), options
        return options

    @property
    def rollout_options(self) -> RolloutOptions | None:
        """The options of a method that samples answers; None for the others."""
        return self.options if isinstance(self.options, RolloutOptions) else None

    @property
    def evaluation_interval(self) -> int | Literal["auto"]:
        """Steps between evaluations, where its hyperparameters give them."""
        interval: int | Literal["auto"] = getattr(self.options.hyperparameters, "eval_interval", AUTO)
        return interval

    @property
    def problem(self) -> Auto[Problem]:
        """The requested kind of labels of a method whose output is labels."""
        return AUTO

    @property
    def reward_models(self) -> Sequence[RewardModelUse]:
        """The models of reward jobs that the recipe names."""
        return [
            RewardModelUse(f"method.{self.type}.{path}", name, reads_tokens=path == "reward_model")
            for path, name in self.options.reward_models().items()
        ]

    def idle_option(self, problem: str = AUTO) -> tuple[str, str] | None:
        """Return (the name of an option that is given and would change nothing, why), or None if there is none.

        `problem`: the kind of the labels, where it is known. Checked where a job is accepted, not when a recipe is
        parsed: stored jobs may have such options.
        """
        return None

    def row_option_values(self) -> Mapping[str, Any]:
        """Return the values of the options that change the rows' arrays, by name."""
        return {name: getattr(self.options, name) for name in sorted(self.row_options)}
