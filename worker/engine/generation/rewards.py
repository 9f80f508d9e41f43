"""Rewards of answers, from a grader or from reward models."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from api.spec.graders import Case, GraderBase, GradingError, Messages, Question, Verdict, Verdicts, grade
from api.spec.graders.base import EMBEDDING_MODEL
from api.spec.lifecycle import FailureReason
from api.spec.methods.reward import Reward
from api.spec.resolve import ResolvedRecipe
from api.spec.techniques import Technique
from worker.engine.errors import TrainingError
from worker.engine.generation.rollout_sampler import Answers
from worker.engine.generation.token_draws import TokenArray
from worker.engine.model.adapters import network_of
from worker.engine.model.batches import Layout, micro_batches
from worker.engine.model.families import context_window, needs_single_rows
from worker.engine.model.load import load_published
from worker.engine.model.trainable import TrainableModel
from worker.rows.chat_template import ChatTemplate, TemplateFailure
from worker.rows.generation_ends import EndTokens
from worker.rows.tokenize_rows import TokenizerWrapper
from worker.shared.arrays import Rows, rows_of
from worker.shared.embedding_model import EmbeddingModel, UnusableModel
from worker.shared.judgements import AskJudges, no_judge

MAX_GRADING_ERRORS = 100
"""Maximum number of different grader messages that are kept. A script's message may quote the answer, so every answer
may have another message."""
EMBEDDINGS = "embedding_model"
"""In the run folder: the operator's embedding model, if the grader needs one."""
REWARD_MODELS = "judges.json"
"""File in the run folder that lists the reward models: {model id: {"folder", "technique"}}."""

Rewards = npt.NDArray[np.float32]


class RewardModel:
    """A published reward model, frozen.

    `folder`: the model's files. If the model is an adapter, its base model is in `folder/base`.

    Inputs must look like the rows that the model was trained on: a whole row as the chat template writes it, with
    everything that follows the answer. The score is read at the last token, which in most templates is a newline after
    the end of turn.
    """

    def __init__(
        self,
        folder: Path,
        technique: Technique,
        recipe: ResolvedRecipe,
        device: torch.device,
        keep_alive: Callable[[], None] = lambda: None,
    ) -> None:
        base = folder / "base"
        weights = base if base.exists() else folder
        self._tokenizer = TokenizerWrapper.load(weights)
        self._template = ChatTemplate.load(weights)
        self._end_tokens = EndTokens.load(weights, self._tokenizer)
        reward_recipe = recipe.model_copy(update={"technique": technique, "method": Reward(), "labels": None})
        network = load_published(folder, base if base.exists() else None, reward_recipe, device)
        network.requires_grad_(False)
        config = network_of(network).config
        single_row = technique.virtual_tokens > 0 or needs_single_rows(config)
        layout = Layout(packed=False, single_row=single_row, pad_token=config.pad_token_id)
        self._model = TrainableModel(network, layout, virtual_tokens=technique.virtual_tokens > 0)
        self._model.train(False)
        self._model.keep_alive = keep_alive
        window = context_window(config.get_text_config())
        self._context_length = None if window is None else window - technique.virtual_tokens

    @torch.no_grad()
    def score(self, rows: Rows, budget_tokens: int) -> Rewards:
        """Return the score [R] of each sequence. Raises TrainingError if a sequence exceeds the model's context
        length."""
        longest = int(rows.lengths.max())
        if self._context_length is not None and longest > self._context_length:
            raise TrainingError(
                FailureReason.INVALID_RECIPE,
                f"A prompt with its answer has {longest} tokens, and the reward model's context length is "
                f"{self._context_length}. Lower training.max_length or max_tokens, or train a reward model on a base "
                "with a longer context.",
            )
        numbered = Rows(
            rows.tokens,
            rows.loss_weights,
            rows.starts,
            rows.ends,
            per_row={"row": np.arange(len(rows), dtype=np.float32)},
        )
        scores = np.zeros(len(rows), np.float32)
        for batch in micro_batches(numbered, budget_tokens, self._model.layout, self._model.device):
            row = batch.per_row["row"].long().cpu().numpy()
            scores[row] = self._model.sequence_scores(batch)[:, 0].cpu().numpy()
        return scores

    def score_answers(self, answers: Answers, chats: Sequence[bool], budget_tokens: int) -> Rewards:
        """Return the score [R] of each prompt with its answer. `chats`: whether a chat template wrote the prompt.

        Every answer gets the tokens that follow a finished answer, even an answer that was cut off at the length limit:
        the model was trained on finished answers only.
        """
        parts = zip(answers.prompts, answers.answers, answers.ended, chats, strict=True)
        return self.score(rows_of([self._with_end(*part) for part in parts]), budget_tokens)

    def _with_end(self, prompt: TokenArray, answer: TokenArray, ended: bool, chat: bool) -> list[int]:
        """Return the tokens of the prompt, the answer and the end of a finished answer. If only the end exceeds the
        context length, the answer is shortened to make room for it."""
        answer_ids = (answer[:-1] if ended else answer).tolist()
        tokens = [*prompt.tolist(), *self._end_tokens.closed(answer_ids, ended=False, chat=chat)]
        without_end = len(prompt) + len(answer_ids)
        if self._context_length is None or not without_end <= self._context_length < len(tokens):
            return tokens
        kept = len(answer_ids) - (len(tokens) - self._context_length)  # shorten the answer to make room for its end
        return [*prompt.tolist(), *self._end_tokens.closed(answer_ids[: max(0, kept)], ended=False, chat=chat)]

    def score_messages(self, conversations: Sequence[Messages], budget_tokens: int) -> list[float | GradingError]:
        """Return the score of each conversation, rendered with the model's own template, or the error if it cannot be
        scored."""
        scores: list[float | GradingError] = []
        scorable: list[tuple[int, list[int]]] = []
        for index, messages in enumerate(conversations):
            try:
                tokens = self._tokenize(messages)
            except GradingError as error:
                scores.append(error)
            else:
                scores.append(math.nan)
                scorable.append((index, tokens))
        if scorable:
            rows = rows_of([tokens for _, tokens in scorable])
            for (index, _), score in zip(scorable, self.score(rows, budget_tokens), strict=True):
                scores[index] = float(score)
        return scores

    def _tokenize(self, messages: Messages) -> list[int]:
        """Return the tokens of a conversation. Raises GradingError if it cannot be rendered, or is too long."""
        assert self._template is not None, "a grader's reward model has a chat template"
        try:
            text = self._template.render(messages, None)
        except TemplateFailure as failure:
            message = f"the reward model's chat template cannot render the grader's messages: {failure}"
            raise GradingError("model_grader_server_error", message) from None
        tokens: list[int] = self._tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
        if self._context_length is not None and len(tokens) > self._context_length:
            message = (
                f"the grader's messages have {len(tokens):,} tokens, and the reward model's context length is "
                f"{self._context_length:,}"
            )
            raise GradingError("truncated_observation_error", message)
        return tokens


class RewardFunction:
    """Rewards answers with `reward_model`, or with `grader`, which may ask reward models and chat models.

    `ask`: the function that asks the chat models. `keep_alive`: called again and again during the grading; it may
    raise Interrupted.
    """

    def __init__(
        self,
        run: Path,
        recipe: ResolvedRecipe,
        device: torch.device,
        *,
        reward_model: str | None,
        grader: GraderBase | None,
        ask: AskJudges = no_judge,
        keep_alive: Callable[[], None] = lambda: None,
    ) -> None:
        for path, fault in (grader.faults() if grader is not None else {}).items():
            raise TrainingError(FailureReason.INVALID_RECIPE, f"The grader cannot run. {path}: {fault}")
        self._reward_model, self._grader = reward_model, grader
        self._ask, self._keep_alive = ask, keep_alive
        self._models = _reward_models(run, recipe, device, keep_alive)
        self._embeddings = _embedding_model(run)
        self.grading_errors: set[str] = set()
        """The grader's messages about answers that it could not grade."""

    def __call__(self, answers: Answers, prompts: Rows, budget_tokens: int) -> Rewards:
        """Return the rewards [R] of the answers, one answer to each prompt. Raise Interrupted if a pause or stop
        command comes while judges are asked."""
        assert prompts.items is not None, "the prompts have no items, which graders read"
        items = [prompts.items[int(number)] for number in prompts.numbers]
        if self._reward_model is not None:
            chats = ["messages" in item for item in items]
            return self._models[self._reward_model].score_answers(answers, chats, budget_tokens)
        assert self._grader is not None, "neither a reward model nor a grader"
        cases = [Case(text, item) for text, item in zip(answers.contents, items, strict=True)]
        questions = [question for case in cases for question in self._grader.questions(case)]
        verdicts = dict(self._scores(questions, budget_tokens))
        verdicts |= self._ask([each for each in questions if each.key not in verdicts], self._keep_alive)
        rewards = np.zeros(len(cases), np.float32)
        for row, case in enumerate(cases):
            graded = grade(self._grader, case.text, case.item, verdicts=verdicts)
            rewards[row] = graded.reward
            if len(self.grading_errors) < MAX_GRADING_ERRORS:
                self.grading_errors.update(graded.metadata.details)
        return rewards

    def _scores(self, questions: list[Question], budget_tokens: int) -> Verdicts:
        """Return the verdicts of the embedding model and of the reward models. Each scores all of its messages
        in one call, so that they share batches."""
        compared = [question for question in questions if question.model == EMBEDDING_MODEL]
        verdicts = {} if self._embeddings is None else self._embeddings.verdicts(compared, self._keep_alive)
        for name, model in self._models.items():
            asked = [question for question in questions if question.model == name]
            if not asked:
                continue
            scores = model.score_messages([question.messages for question in asked], budget_tokens)
            for question, score in zip(asked, scores, strict=True):
                verdicts[question.key] = Verdict.of(score) if isinstance(score, GradingError) else Verdict(score)
        return verdicts


def _embedding_model(run: Path) -> EmbeddingModel | None:
    if not (run / EMBEDDINGS).exists():
        return None
    try:
        return EmbeddingModel(run / EMBEDDINGS)
    except UnusableModel as error:
        message = f"On this worker, {error}: the operator has to name another (ATTUNE_EMBEDDING_MODEL)."
        raise TrainingError(FailureReason.WORKER_FAULT, message) from error


def _reward_models(
    run: Path, recipe: ResolvedRecipe, device: torch.device, keep_alive: Callable[[], None]
) -> dict[str, RewardModel]:
    """Load the reward models of the run folder. Returns them by model id."""
    path = run / REWARD_MODELS
    if not path.exists():
        return {}
    models: dict[str, RewardModel] = {}
    for name, entry in json.loads(path.read_bytes()).items():
        technique = type(recipe).model_validate(recipe.model_dump() | {"technique": entry["technique"]}).technique
        models[name] = RewardModel(run / entry["folder"], technique, recipe, device, keep_alive)
    return models
