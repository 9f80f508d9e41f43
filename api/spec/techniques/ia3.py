from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from api.spec.base_model import Matrix, ModelKind, ModelLayers, ModelShape
from api.spec.target_modules import FIELD, NoTargetModules, choose, matches
from api.spec.techniques.base import ActivationFactors, Names, TechniqueBase

UNSCALED_KINDS = {
    "embedding": "an embedding",
    "experts": "one tensor of all experts",
    "apart": "one tensor of all experts",
    "router": "a router",
}
"""Kinds of matrices that peft's (IA)³ cannot scale, as error messages name them."""


class Ia3(TechniqueBase):
    """(IA)³: trained vectors l_k, l_v and l_ff scale the keys, the values and the inner activations of the feed-forward
    part (Liu et al. 2022, arXiv:2205.05638)."""

    summary: ClassVar[str] = "Train vectors that scale keys, values and inner activations: very few weights."
    default_learning_rate: ClassVar[float] = 3e-3
    peft_type: ClassVar[str | None] = "IA3"
    loads_in_transformers: ClassVar[bool] = True
    scales: ClassVar[tuple[str, ...]] = ("ia3_l",)
    activation_factors: ClassVar[ActivationFactors] = ActivationFactors(0.5, 0.2)
    allocator_overhead: ClassVar[float] = 1.7
    families: ClassVar[Mapping[ModelKind, frozenset[str]]] = {
        "encoder": frozenset({"bert", "deberta-v2", "roberta"}),
        "causal_lm": frozenset(
            {"bloom", "falcon", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj"}
            | {"llama", "llama4", "mistral", "mixtral", "opt", "phi", "qwen2", "qwen3"}
        ),
    }
    """The families for which peft knows the layers to scale. For other families, the job has to name the layers."""

    type: Literal["ia3"] = "ia3"
    target_modules: Names | None = None
    """Names of the layers to scale. Null: the family's keys, values and feed-forward output."""
    feedforward_modules: Names | None = None
    """Those of `target_modules` whose input is scaled instead of their output. Null: the family's feed-forward output.
    """

    @property
    def names_layers(self) -> bool:
        return self.target_modules is not None

    def adapted_layers(self, layers: ModelLayers) -> Sequence[Matrix]:
        return self._chosen(layers)[0]

    def default_layers(self, layers: ModelLayers) -> Sequence[Matrix] | None:
        return self._chosen(layers)[0]

    def added_parameters(self, shape: ModelShape) -> int:
        """Return the number of trained weights: one for each output of a scaled layer, or for each input of a layer
        whose input is scaled."""
        scaled, at_inputs = self._chosen(shape)
        return sum(matrix.inputs if matrix in at_inputs else matrix.outputs for matrix in scaled)

    def _chosen(self, layers: ModelLayers) -> tuple[list[Matrix], list[Matrix]]:
        """Return (the scaled layers, those among them whose input is scaled). Raise NoTargetModules if there are no
        layers to scale, or if (IA)³ cannot scale a named one."""
        targets = self.target_modules or _default_names(layers)
        if not targets:
            raise NoTargetModules(
                f"{FIELD}: (IA)³ has no default layers for this family: name the layers to scale", FIELD
            )
        found = choose(targets, layers.adaptable)
        for matrix in found:
            if matrix.kind in UNSCALED_KINDS:
                raise NoTargetModules(
                    f"{FIELD}: (IA)³ scales only linear layers, but {matrix.name} is {UNSCALED_KINDS[matrix.kind]}: "
                    "leave "
                    "it out",
                    FIELD,
                )
        for name in self.feedforward_modules or ():
            if name not in targets:
                field = "technique.feedforward_modules"
                raise NoTargetModules(
                    f"{field}: '{name[:200]}' is not in target_modules, which are {', '.join(targets)}", field
                )
        inner = self.feedforward_modules or (layers.ia3["feedforward"] if layers.ia3 else [])
        return found, [matrix for matrix in found if any(matrix.name.endswith(name) for name in inner)]

    def peft(self, layers: ModelLayers) -> Mapping[str, object]:
        # For a family that peft does not know, peft refuses null: no layer is feed-forward unless the job names it.
        inner = [] if self.feedforward_modules is None and layers.ia3 is None else self.feedforward_modules
        return {"target_modules": self.target_modules and sorted(self.target_modules), "feedforward_modules": inner}


def _default_names(layers: ModelLayers) -> list[str]:
    """Return those of the family's default names that match a layer which (IA)³ can scale in this model. For example,
    it cannot scale experts that are stored together in one tensor."""
    scaled = [matrix.name for matrix in layers.adaptable if matrix.kind not in UNSCALED_KINDS]
    return [
        name for name in (layers.ia3["targets"] if layers.ia3 else ()) if any(matches(name, each) for each in scaled)
    ]
