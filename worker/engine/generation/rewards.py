"""What an answer is worth: a grader's reward, or a reward model's."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from api.spec.graders import Case, GradingError, Messages, Scores, grade
from api.spec.lifecycle import FailureReason
from api.spec.methods.reward import Reward
from api.spec.resolve import ResolvedRecipe
from api.spec.techniques import Technique
from worker.engine.errors import TrainingError
from worker.engine.generation.sampler import Answers
from worker.engine.model.batches import Layout, micro_batches
from worker.engine.model.families import examples_stay_alone
from worker.engine.model.load import load_published
from worker.engine.model.trainable import TrainableModel
from worker.rows.chat_template import ChatTemplate, TemplateFailure
from worker.rows.end_tokens import EndTokens
from worker.rows.tokenizer import TokenizerWrapper
from worker.shared.arrays import Rows, rows_of

JUDGES = "judges.json"

Rewards = npt.NDArray[np.float32]
Array = npt.NDArray[np.int32]


class RewardModel:
    """A published reward model, frozen. `folder` of the run: its files, and in `base/` those of its base, if it is an
    adapter.

    It reads what it was trained on: a whole row, as the template writes it, with all that follows the answer there.
    Its score is read at the row's end, which in most templates is a newline after the end of turn.
    """

    def __init__(self, folder: Path, technique: Technique, recipe: ResolvedRecipe, device: torch.device) -> None:
        base = folder / "base"
        weights = base if base.exists() else folder
        self._tokens = TokenizerWrapper.load(weights)
        self._template = ChatTemplate.load(weights)
        self._endings = EndTokens.load(weights, self._tokens)
        of_reward = recipe.model_copy(update={"technique": technique, "method": Reward(), "labels": None})
        network = load_published(folder, base if base.exists() else None, of_reward, device)
        network.requires_grad_(False)
        inner = network.get_base_model() if hasattr(network, "get_base_model") else network
        alone = technique.virtual_tokens > 0 or examples_stay_alone(inner.config)
        layout = Layout(packed=False, alone=alone, pad_token=inner.config.pad_token_id)
        self._model = TrainableModel(network, layout, virtual_tokens=technique.virtual_tokens > 0)
        self._model.train(False)
        self._window: int | None = getattr(inner.config, "max_position_embeddings", None)

    @torch.no_grad()
    def score(self, rows: Rows, budget_tokens: int) -> Rewards:
        """[R]: what it says of each sequence, as it ends there. Raises TrainingError where it cannot read so far."""
        longest = int(rows.lengths.max())
        if self._window is not None and longest > self._window:
            raise TrainingError(
                FailureReason.INVALID_RECIPE,
                f"The reward model reads {self._window} tokens, and a prompt with its answer has {longest}. Lower "
                "training.max_length or max_tokens, or train a reward model on a base with a larger window.",
            )
        numbered = Rows(
            rows.tokens,
            rows.loss_weights,
            rows.starts,
            rows.ends,
            per_row={"at": np.arange(len(rows), dtype=np.float32)},
        )
        found = np.zeros(len(rows), np.float32)
        for batch in micro_batches(numbered, budget_tokens, self._model.layout, self._model.device):
            at = batch.per_row["at"].long().cpu().numpy()
            found[at] = self._model.sequence_scores(batch)[:, 0].cpu().numpy()
        return found

    def score_answers(self, answers: Answers, chats: Sequence[bool], budget_tokens: int) -> Rewards:
        """[R]: the scores of prompts with their answers, each closed as a finished answer is. `chats`: whether a chat
        template wrote the prompt.

        One that was cut off at its longest is closed, too: the model has learnt to score nothing else.
        """
        found = zip(answers.prompts, answers.answers, answers.ended, chats, strict=True)
        return self.score(rows_of([self._closed(*each) for each in found]), budget_tokens)

    def _closed(self, prompt: Array, answer: Array, ended: bool, chat: bool) -> list[int]:
        said = answer.tolist()
        tokens = [*prompt.tolist(), *self._endings.closed(said, ended=ended, chat=chat)]
        whole = len(prompt) + len(said)
        if self._window is None or not whole <= self._window < len(tokens):
            return tokens
        kept = len(said) - (len(tokens) - self._window)  # an answer that fills the window leaves its ending no room
        return [*prompt.tolist(), *self._endings.closed(said[: max(0, kept)], ended=False, chat=chat)]

    def score_messages(self, conversations: Sequence[Messages], budget_tokens: int) -> list[float | GradingError]:
        """What it says of conversations, rendered by its own template; or why it can say nothing of one."""
        found: list[float | GradingError] = []
        readable: list[tuple[int, list[int]]] = []
        for at, messages in enumerate(conversations):
            try:
                tokens = self._read(messages)
            except GradingError as problem:
                found.append(problem)
            else:
                found.append(math.nan)
                readable.append((at, tokens))
        if readable:
            rows = rows_of([tokens for _, tokens in readable])
            for (at, _), score in zip(readable, self.score(rows, budget_tokens), strict=True):
                found[at] = float(score)
        return found

    def _read(self, messages: Messages) -> list[int]:
        """The tokens of one conversation. Raises GradingError where it cannot be read."""
        assert self._template is not None, "a reward model that judges messages has a chat template"
        try:
            text = self._template.render(messages, None)
        except TemplateFailure as failure:
            message = f"the reward model's chat template cannot write the grader's messages: {failure}"
            raise GradingError("model_grader_server_error", message) from None
        tokens: list[int] = self._tokens.tokenizer.encode(text, add_special_tokens=False).ids
        if self._window is not None and len(tokens) > self._window:
            message = (
                f"the grader's messages are {len(tokens):,} tokens long, and the reward model reads {self._window:,}"
            )
            raise GradingError("truncated_observation_error", message)
        return tokens


class Judge:
    """Gives each answer its reward: by `reward_model`, or by `grader`, which may name reward models itself."""

    def __init__(
        self, run: Path, recipe: ResolvedRecipe, device: torch.device, *, reward_model: str | None, grader: Any
    ) -> None:
        self._reward_model, self._grader = reward_model, grader
        self._models = _reward_models(run, recipe, device)
        self.troubles: set[str] = set()
        """What the grader said of answers that it could not judge."""

    def __call__(self, answers: Answers, prompts: Rows, budget_tokens: int) -> Rewards:
        """[R], one for each answer to each prompt."""
        assert prompts.items is not None, "prompts carry the items that a grader reads"
        items = [prompts.items[int(at)] for at in prompts.numbers]
        if self._reward_model is not None:
            chats = ["messages" in item for item in items]
            return self._models[self._reward_model].score_answers(answers, chats, budget_tokens)
        cases = [Case(text, item) for text, item in zip(answers.texts, items, strict=True)]
        scores = self._scores([question for case in cases for question in self._grader.questions(case)], budget_tokens)
        rewards = np.zeros(len(cases), np.float32)
        for row, case in enumerate(cases):
            found = grade(self._grader, case.text, case.item, scores=scores)
            rewards[row] = found.reward
            self.troubles.update(found.metadata.details)
        return rewards

    def _scores(self, questions: list[tuple[str, Messages]], budget_tokens: int) -> Scores:
        """What the reward models say, each asked all of its questions at once; asked for what one could not read, it
        raises GradingError."""
        known: dict[tuple[str, str], float | GradingError] = {}
        for name, model in self._models.items():
            asked = [messages for model_id, messages in questions if model_id == name]
            if asked:
                found = model.score_messages(asked, budget_tokens)
                known |= {(name, json.dumps(each)): score for each, score in zip(asked, found, strict=True)}

        def score(model_id: str, messages: Messages) -> float:
            found = known[model_id, json.dumps(messages)]
            if isinstance(found, GradingError):
                raise found
            return found

        return score


def _reward_models(run: Path, recipe: ResolvedRecipe, device: torch.device) -> dict[str, RewardModel]:
    """By their ids, as judges.json of the run folder lists them: {id: {"folder", "technique"}}."""
    listed = run / JUDGES
    if not listed.exists():
        return {}
    found: dict[str, RewardModel] = {}
    for name, entry in json.loads(listed.read_bytes()).items():
        technique = type(recipe).model_validate(recipe.model_dump() | {"technique": entry["technique"]}).technique
        found[name] = RewardModel(run / entry["folder"], technique, recipe, device)
    return found
