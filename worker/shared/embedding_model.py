"""The operator's embedding model, which measures the similarity of texts for `text_similarity` graders with `cosine`.

The model is a folder as sentence-transformers writes it: an encoder, whose last hidden states are pooled to one vector
for each text. Models of sentence-transformers with further layers are refused.

The import of PreTrainedModel takes more than a second. It is made at the top, so that the fork server makes it once for
all children. The fork server also loads the model, whose weights the children share with it and never change.
"""

import json
import traceback
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch
from tokenizers import Tokenizer
from torch.nn.functional import cosine_similarity
from transformers import AutoModel, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from api.spec.graders import Question, Verdict
from worker.rows import limits

POOLINGS = ("mean", "cls", "lasttoken")
MODULES = ("Transformer", "Pooling", "Normalize")
"""The supported parts of a sentence-transformers model. Normalization needs no code, because it does not change a
cosine."""
MAX_TOKENS = 512
"""Maximum number of tokens of a text that are read, if the folder gives no limit. Further tokens are cut off."""


class UnusableModel(Exception):
    """The embedding model cannot be loaded, or has parts that are not supported. Users read the message, so it contains
    no paths and no text of other exceptions."""


def prepare(folder: str) -> None:
    """Load the model for the forks of this process. If that fails, each of them reports why."""
    disable_progress_bar()  # it has a thread, which a fork would not have
    before = psutil.Process().memory_info().data
    try:
        loaded(Path(folder))
        limits.shared_bytes = max(0, psutil.Process().memory_info().data - before)
    except Exception:  # of any kind: the fork server must live, because not all of its children need the model
        traceback.print_exc()


@cache
def loaded(folder: Path) -> "EmbeddingModel":
    """Return the model in the folder, which a process and its forks load once. Raise what `EmbeddingModel` raises.

    The process then computes in one thread. With a few texts, several threads wait for each other most of the time, and
    a fork would not have the threads of its parent.
    """
    torch.set_num_threads(1)
    return EmbeddingModel(folder)


class EmbeddingModel:
    def __init__(self, folder: Path) -> None:
        """Load the model. Raise UnusableModel if that cannot succeed, RuntimeError or MemoryError if memory runs
        out."""
        try:
            _require_supported(folder)
            self._pooling = _pooling(folder)
            self._network: PreTrainedModel = AutoModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True
            )
            self._tokenizer = Tokenizer.from_buffer((folder / "tokenizer.json").read_bytes())
            limit = (_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
        except (UnusableModel, MemoryError, RuntimeError):
            raise
        except Exception as error:  # of any kind: the libraries do not document what they raise for a broken folder
            raise UnusableModel("the embedding model cannot be loaded") from error
        self._network.eval()
        self._tokenizer.no_padding()
        longest = getattr(self._network.config, "max_position_embeddings", MAX_TOKENS)
        self._tokenizer.enable_truncation(min(limit or MAX_TOKENS, longest))

    def verdicts(
        self, questions: Iterable[Question], keep_alive: Callable[[], None] = lambda: None
    ) -> dict[str, Verdict]:
        """Return {key: similarity from 0 to 1} of the questions. A negative cosine counts as 0. `keep_alive` is called
        before each text, because many texts take minutes on a CPU."""
        vectors: dict[str, torch.Tensor] = {}
        found = {}
        for question in questions:
            first, second = (message["content"] for message in question.messages)
            for text in (first, second):
                if text not in vectors:
                    keep_alive()
                    vectors[text] = self._embed(text)
            cosine = float(cosine_similarity(vectors[first], vectors[second], dim=0))
            found[question.key] = Verdict(min(max(cosine, 0.0), 1.0))
        return found

    @torch.no_grad()
    def _embed(self, text: str) -> torch.Tensor:
        """Return the vector [D] of a text."""
        token_ids = self._tokenizer.encode(text.encode(errors="replace").decode()).ids
        if not token_ids:  # the text is empty, and the tokenizer adds no tokens of its own
            return torch.zeros(self._network.config.hidden_size)
        hidden_TD: torch.Tensor = self._network(input_ids=torch.tensor([token_ids])).last_hidden_state[0]
        match self._pooling:
            case "cls":
                return hidden_TD[0]
            case "lasttoken":
                return hidden_TD[-1]
        return hidden_TD.mean(dim=0)


def _require_supported(folder: Path) -> None:
    modules = [str(each["type"]).rpartition(".")[2] for each in _json(folder / "modules.json") or []]
    if unknown := set(modules) - set(MODULES):
        raise UnusableModel(f"the embedding model has a part '{min(unknown)}', which is not supported")


def _pooling(folder: Path) -> str:
    config = _json(folder / "1_Pooling" / "config.json") or {"pooling_mode": "mean"}
    older = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}
    pooling = config.get("pooling_mode") or next((older[name] for name in older if config.get(name)), None)
    if pooling not in POOLINGS:
        raise UnusableModel(f"the embedding model has a pooling that is not one of {', '.join(POOLINGS)}")
    return pooling


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes()) if path.is_file() else None
