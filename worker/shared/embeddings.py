"""Answers of the operator's embedding model to graders' questions about the similarity of texts. Torch is imported only
if there is such a question."""

import traceback
from collections.abc import Iterable
from pathlib import Path

from api.spec.graders import Question, Verdict, Verdicts
from api.spec.graders.base import EMBEDDING_MODEL


def similarity_verdicts(folder: str | None, questions: Iterable[Question]) -> Verdicts:
    """Return the verdicts on the questions that the embedding model in this folder answers."""
    asked = {question.key: question for question in questions if question.model == EMBEDDING_MODEL}
    if not asked:
        return {}
    if folder is None:
        return dict.fromkeys(asked, Verdict(message="the operator has named no embedding model"))
    try:
        from worker.shared.embedding_model import UnusableModel, loaded  # noqa: PLC0415 (see the module's docstring)
    except ImportError:
        traceback.print_exc()
        message = "this machine lacks the libraries of the embedding model: install Attune with '.[worker]' there"
        return dict.fromkeys(asked, Verdict(message=message))

    try:
        return loaded(Path(folder)).verdicts(asked.values())
    except UnusableModel as error:
        traceback.print_exc()
        message = f"on this server, {error}"
    except (MemoryError, RuntimeError):  # torch's allocations raise RuntimeError
        traceback.print_exc()
        message = "the embedding model needs more memory than the operator allows (ATTUNE_PREVIEW_MEMORY_BYTES)"
    return dict.fromkeys(asked, Verdict(message=message))
