"""A model in training: its trained weights, and its scores of a micro-batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from worker.engine.model import lora
from worker.engine.model.adapters import heads_of, network_of
from worker.engine.model.batches import Layout, MicroBatch
from worker.engine.model.families import head_of
from worker.engine.model.head import Scoring, TokenScores, score, token_scores

Tensors = dict[str, torch.Tensor]


class TrainableModel:
    """A language model, a classifier or a reward model, some of whose weights are trained.

    Trained weights are kept in float32. If the model's own weights are trained in bfloat16, `masters` holds float32
    copies, which the optimizer updates, and the model computes with the copies rounded to bfloat16.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        layout: Layout,
        *,
        virtual_tokens: bool = False,
        reads_whole: bool = False,
    ) -> None:
        """virtual_tokens: whether the technique puts trained tokens before the text. Only the forward of peft's model
        does that. reads_whole: whether the model is an encoder."""
        self.model: Any = model
        self.network = network_of(model)
        self.layout = layout
        self._virtual_tokens, self._reads_whole = virtual_tokens, reads_whole
        self.value_head: nn.Linear | None = None
        self.trained: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
        }
        self.masters = {name: _master(parameter) for name, parameter in self.trained.items()}
        self.keep_alive: Callable[[], None] = lambda: None
        """Called at each micro-batch, so that the supervisor knows that the training is running."""
        self.restore_layers: Callable[[], None] = lambda: None
        """Restores the library's forward of layers that were replaced for training (worker.engine.model.lora)."""
        self.scoring = Scoring()
        self._lengths: torch.Tensor | None = None
        self._start: Tensors | None = None
        self.without_update: list[Any] = []
        """LoRA layers that have no update before the first step."""
        self.extras: dict[str, torch.Tensor] = {}
        """Initial weights of an adapter whose initialization changed the base model. The export of the adapter needs
        them."""

    @property
    def device(self) -> torch.device:
        device: torch.device = self.network.device
        return device

    @property
    def vocabulary(self) -> int:
        return int(self.network.config.get_text_config().vocab_size)

    @property
    def takes_padding_before(self) -> bool:
        """Whether prompts of different lengths can be sampled together, with padding before the shorter ones. With
        virtual tokens, peft passes no positions to the model, so padding would shift a prompt away from the virtual
        tokens. Some rotary embeddings depend on the longest prompt, so prompts of other lengths must not
        share its batch."""
        return not (self._virtual_tokens or self.layout.single_row)

    def train(self, training: bool = True) -> None:
        self.model.train(training)

    def token_scores(self, batch: MicroBatch, scoring: Scoring | None = None) -> TokenScores:
        """Return the scores of each supervised token, [S]."""
        return self.scores_and_values(batch, scoring)[0]

    def scores_and_values(
        self, batch: MicroBatch, scoring: Scoring | None = None
    ) -> tuple[TokenScores, torch.Tensor | None]:
        """Return the scores of each supervised token, [S], and the value of the state before it, [S], if there is a
        value head. All are float32."""
        self.keep_alive()
        scoring = scoring or self.scoring
        if self.layout.packed:
            hidden_S_D = _joined(
                [self._packed_hidden(part).index_select(0, part.target_positions) for part in self._parts(batch)]
            )
            head = self.network.get_output_embeddings()
            trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
            scores = token_scores(
                hidden_S_D,
                head_of(self.network),
                batch.targets,
                scoring,
                vocabulary=self.vocabulary,
                trained=trained if torch.is_grad_enabled() else [],
            )
            return scores, self._values(hidden_S_D)
        logits, hidden = [], []
        for part in self._parts(batch):
            out = self._padded(part, output_hidden_states=self.value_head is not None)
            logits.append(_at_targets(out.logits, part))
            if self.value_head is not None:
                hidden.append(_at_targets(out.hidden_states[-1], part))
        return score(_joined(logits), batch.targets, scoring), self._values(_joined(hidden)) if hidden else None

    def sequence_scores(self, batch: MicroBatch) -> torch.Tensor:
        """Return the scores that a classifier or a reward model gives to each sequence, float32 [sequences, labels]."""
        self.keep_alive()
        if self._reads_whole or self._virtual_tokens:
            return _joined([self._padded(part).logits for part in self._parts(batch)]).float()
        if self.layout.packed:
            last_D = _joined([self._packed_hidden(part).index_select(0, part.last) for part in self._parts(batch)])
        else:
            last_D = _joined([self._last_hidden(part) for part in self._parts(batch)])
        for head in heads_of(self.network):  # most families have one; ModernBERT's decoders have a layer before it
            last_D = self.network.get_submodule(head)(last_D)
        return last_D.float()

    def _parts(self, batch: MicroBatch) -> Iterator[MicroBatch]:
        """Yield the batch, or each of its sequences if they must not share one: the score of a shorter answer would be
        read at padding behind virtual tokens, and some rotary embeddings depend on the longest answer."""
        alone = self.layout.single_row and batch.sequences > 1
        for part in batch.each_alone() if alone else (batch,):
            self._lengths = part.lengths
            yield part

    def _packed_hidden(self, batch: MicroBatch) -> torch.Tensor:
        """Return the decoder's last hidden states, [B * T, D]."""
        hidden_1_N_D: torch.Tensor = self.network.base_model(
            input_ids=batch.tokens, position_ids=batch.positions, segments=batch.segments, use_cache=False
        ).last_hidden_state
        return hidden_1_N_D[0]

    def _last_hidden(self, batch: MicroBatch) -> torch.Tensor:
        """Return the decoder's last hidden state of each sequence's last token, [sequences, D]."""
        hidden_B_T_D: torch.Tensor = self.network.base_model(
            input_ids=batch.tokens, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        return hidden_B_T_D.flatten(0, 1).index_select(0, batch.last)

    def _padded(self, batch: MicroBatch, *, output_hidden_states: bool = False) -> Any:
        whole = self.model if self._virtual_tokens else self.network
        caching = {} if self._reads_whole else {"use_cache": False}
        return whole(
            input_ids=batch.tokens,
            attention_mask=batch.attention_mask,
            output_hidden_states=output_hidden_states,
            **caching,
        )

    def _values(self, hidden_S_D: torch.Tensor) -> torch.Tensor | None:
        if self.value_head is None:
            return None
        values_S: torch.Tensor = self.value_head(hidden_S_D.to(self.value_head.weight.dtype))[:, 0]
        return values_S

    def add_value_head(self) -> None:
        """Add a linear value function on the last hidden states. Its weights begin at zero and are never published."""
        config = self.network.config.get_text_config()
        width = getattr(config, "word_embed_proj_dim", config.hidden_size)  # OPT projects its last states
        head = nn.Linear(width, 1, device=self.device, dtype=torch.float32)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.value_head = head
        for name, parameter in head.named_parameters():
            self.trained[f"value_head.{name}"] = self.masters[f"value_head.{name}"] = parameter

    def add_noise(self, alpha: float) -> None:
        """Add uniform noise in ± α / √(L d) to the embeddings in training: NEFTune (arXiv:2310.05914)."""

        def noise(module: nn.Module, _: object, embedded_B_T_D: torch.Tensor) -> torch.Tensor:
            if not module.training or self._lengths is None:
                return embedded_B_T_D
            lengths = self._lengths.clamp(min=1)[..., None].to(embedded_B_T_D.dtype)
            reach = alpha / (lengths * embedded_B_T_D.shape[-1]).sqrt()
            return embedded_B_T_D + torch.empty_like(embedded_B_T_D).uniform_(-1, 1) * reach

        self.network.get_input_embeddings().register_forward_hook(noise)

    @property
    def has_snapshot(self) -> bool:
        """Whether there is a snapshot for `reference_weights`."""
        return self._start is not None

    def snapshot_reference(self) -> None:
        """Keep a copy of the trained weights for `reference_weights`, unless an earlier call made one. Call it before
        the first step."""
        if self._start is None:
            self._start = {name: parameter.detach().clone() for name, parameter in self.trained.items()}

    @contextmanager
    @torch.no_grad()
    def reference_weights(self, start: Tensors | None = None) -> Iterator[None]:
        """Within the context, the model has the weights in `start`, or those that `snapshot_reference` copied. It then
        serves as the reference model, so that no second model has to be in memory."""
        without_update = self.without_update if start is None else []
        start = self._start if start is None else start
        assert start is not None, "snapshot_reference comes first"
        now = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        _copy(start, self.trained)
        try:
            with lora.base_alone(without_update):
                yield
        finally:
            _copy(now, self.trained)

    @torch.no_grad()
    def copy_from_masters(self) -> None:
        """Copy the float32 masters into the model's weights, rounded, after an optimizer step."""
        for name, parameter in self.trained.items():
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])

    @torch.no_grad()
    def set_weights(self, weights: Tensors) -> None:
        assert weights.keys() == self.masters.keys(), f"different names: {sorted(weights.keys() ^ self.masters.keys())}"
        _copy(weights, self.masters)
        self.copy_from_masters()

    def release(self) -> None:
        """Free the weights. The model cannot be used afterwards."""
        self.trained, self.masters, self.extras = {}, {}, {}
        self._start = self.value_head = None
        self.without_update = []
        self.restore_layers = lambda: None  # it holds the layers
        del self.model, self.network


def _at_targets(values: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
    """Return the values [B, virtual tokens + T, D] from which the batch's supervised tokens are predicted, [S, D]."""
    return values[:, -batch.tokens.shape[1] :].flatten(0, 1)[batch.target_positions]


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]  # a copy of a single part would take memory


def _copy(source: Tensors, target: dict[str, nn.Parameter]) -> None:
    for name, parameter in target.items():
        parameter.copy_(source[name])


def _master(parameter: nn.Parameter) -> nn.Parameter:
    """Return the weight that the optimizer updates: the parameter itself if it is float32, else a float32 copy, to
    which a hook moves the parameter's gradients."""
    if parameter.dtype == torch.float32:
        return parameter
    master = nn.Parameter(parameter.detach().float())

    def collect(computed: torch.Tensor) -> None:
        gradient, computed.grad = computed.grad, None
        assert gradient is not None
        master.grad = gradient.float() if master.grad is None else master.grad.add_(gradient)

    parameter.register_post_accumulate_grad_hook(collect)  # type: ignore[no-untyped-call]
    return master
