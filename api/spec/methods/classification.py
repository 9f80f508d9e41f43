from typing import ClassVar, Literal

from pydantic import Field

from api.spec.base_model import ModelKind
from api.spec.fields import AUTO, Auto, AutoOrNull, OrNull
from api.spec.methods.base import MethodBase, Options, Output, Problem, Smoothing


class ClassificationOptions(Options):
    problem: AutoOrNull[Problem] = AUTO
    """Kind of the labels: one name, several names, or a number. "auto": text and whole numbers are names of classes,
    lists are several names, and numbers with a fraction are regression targets."""
    class_weights: Literal["none", "balanced"] = "none"
    """"balanced" weighs each class by n / (classes · n_class) in the loss, where n is the number of training rows, and
    n_class the number of those in the class. For single_label only.

    The validation loss has the same weights, so that the best step is chosen by the loss that is optimized.
    """
    label_smoothing: Smoothing = 0.0
    """ε: (1 - ε) of the target goes to the class, ε is spread over all classes (single_label only). Default 0."""


class Classification(MethodBase):
    """Train a linear head on the text's representation, with cross-entropy, binary cross-entropy or squared error.

    The representation is an encoder's output at the first token (Devlin et al. 2018, arXiv:1810.04805), or a language
    model's output at the last token.
    """

    summary: ClassVar[str] = "Learn to label a text: one class, several, or a number."
    formats: ClassVar[frozenset[str]] = frozenset({"labelled"})
    kinds: ClassVar[frozenset[ModelKind]] = frozenset({"causal_lm", "encoder"})
    output: ClassVar[Output] = "labels"
    row_options: ClassVar[frozenset[str]] = frozenset({"problem"})

    type: Literal["classification"] = "classification"
    classification: OrNull[ClassificationOptions] = Field(default_factory=ClassificationOptions)

    @property
    def problem(self) -> Auto[Problem]:
        return self.classification.problem

    def idle_option(self, problem: str = AUTO) -> tuple[str, str] | None:
        options = self.classification
        problem = options.problem if problem == AUTO else problem
        if problem in (AUTO, "single_label"):
            return None
        given = {"class_weights": options.class_weights != "none", "label_smoothing": options.label_smoothing > 0}
        why = f"it applies only to labels of the kind single_label, and these are {problem}"
        return next(((name, why) for name, is_given in given.items() if is_given), None)
