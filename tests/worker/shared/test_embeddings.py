"""`text_similarity` with `cosine`, by a tiny random encoder, and by a real one."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from transformers import AutoModel, AutoTokenizer

from api.spec.graders import Grader, Question
from api.spec.graders.base import EMBEDDING_MODEL
from api.spec.lifecycle import FailureReason
from benchmarks.relations.bases import minilm
from tests.tiny_models import make_encoder
from tests.worker.parity import ours
from worker.engine.errors import TrainingError
from worker.engine.generation.rewards import RewardFunction
from worker.evaluate import CRITERIA, run_graders
from worker.evaluate import Request as EvaluateRequest
from worker.grade import Request, run_grader
from worker.rows import limits
from worker.shared.embedding_model import EmbeddingModel, UnusableModel, loaded, prepare
from worker.shared.embeddings import similarity_verdicts

COSINE: dict[str, object] = {
    "type": "text_similarity",
    "name": "near",
    "evaluation_metric": "cosine",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
}
TEXTS = ("It is Paris.", "Paris")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture(autouse=True)
def nothing_is_loaded() -> Iterator[None]:
    """Each test loads its models itself, and the process computes in as many threads as before."""
    threads = torch.get_num_threads()
    yield
    loaded.cache_clear()
    torch.set_num_threads(threads)


def question(*texts: str) -> Question:
    return Question(EMBEDDING_MODEL, [{"role": "user", "content": text} for text in texts])


def similarity(folder: Path, *texts: str) -> float:
    asked = question(*texts)
    value = EmbeddingModel(folder).verdicts([asked])[asked.key].value
    assert isinstance(value, float)
    return value


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_the_similarity_is_the_cosine_of_the_pooled_states(encoder: Path, pooling: str) -> None:
    (encoder / "1_Pooling").mkdir(exist_ok=True)
    (encoder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    network, tokenizer = AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    pool: dict[str, Any] = {"mean": lambda h: h.mean(0), "cls": lambda h: h[0], "lasttoken": lambda h: h[-1]}
    with torch.no_grad():
        states = [network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]
    first, second = (pool[pooling](each) for each in states)
    expected = torch.cosine_similarity(first, second, dim=0).clamp(min=0)
    assert similarity(encoder, *TEXTS) == pytest.approx(float(expected), abs=1e-5)
    (encoder / "1_Pooling" / "config.json").unlink()


def test_a_real_model_gives_the_similarities_of_sentence_transformers() -> None:
    """Its formula, by hand: the mean of the states that are no padding, of length one; their product."""
    folder = minilm()
    texts = [
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "The stock market fell by two percent today.",
    ]
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    mask_BT1 = inputs["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        sums = (network(**inputs).last_hidden_state * mask_BT1).sum(1)
    vectors = torch.nn.functional.normalize(sums / mask_BT1.sum(1), dim=1)
    near, far = similarity(folder, texts[0], texts[1]), similarity(folder, texts[0], texts[2])
    assert near == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    assert far == pytest.approx(max(0.0, float(vectors[0] @ vectors[2])), abs=1e-5)
    assert near > 0.7 > 0.2 > far


def test_a_prepared_model_is_loaded_once(encoder: Path, tmp_path: Path) -> None:
    folder, asked = tmp_path / "copy", question(*TEXTS)
    shutil.copytree(encoder, folder)
    prepare(str(folder))
    shutil.rmtree(folder)
    assert similarity_verdicts(str(folder), [asked])[asked.key].value == pytest.approx(similarity(encoder, *TEXTS))
    prepare(str(tmp_path / "none"))
    assert "cannot be loaded" in similarity_verdicts(str(tmp_path / "none"), [asked])[asked.key].message


def test_equal_texts_are_one_and_long_or_broken_ones_are_read(encoder: Path) -> None:
    assert similarity(encoder, "same", "same") == pytest.approx(1)
    assert 0 <= similarity(encoder, "long " * 10_000, "\ud800") <= 1


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}]),
        ("1_Pooling/config.json", {"pooling_mode": "x"}),
        ("modules.json", "no list of modules"),
        ("tokenizer.json", None),
        ("tokenizer.json", "no tokenizer"),
        ("config.json", {"model_type": "unheard-of"}),
        ("model.safetensors", "no weights"),
    ],
)
def test_a_model_that_cannot_be_used_is_the_workers_fault_in_a_job(
    encoder: Path, tmp_path: Path, file: str, content: object
) -> None:
    shutil.copytree(encoder, tmp_path / "embedding_model")
    path = tmp_path / "embedding_model" / file
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    options: dict[str, Any] = {"reward_model": None, "grader": TypeAdapter[Grader](Grader).validate_python(COSINE)}
    with pytest.raises(TrainingError, match="On this worker, the embedding model ") as caught:
        RewardFunction(tmp_path, ours.settled("supervised", {}), torch.device("cpu"), **options)
    assert caught.value.reason is FailureReason.WORKER_FAULT
    assert str(tmp_path) not in caught.value.message


def test_graders_and_criteria_ask_the_embedding_model(encoder: Path) -> None:
    expected = similarity(encoder, *TEXTS)
    item: dict[str, object] = {"answer": TEXTS[1]}
    multi: dict[str, object] = {
        "type": "multi",
        "name": "m",
        "graders": {"near": COSINE},
        "calculate_output": "2 * near",
    }
    given: dict[str, Any] = {"model_sample": TEXTS[0], "item": item, "embedding_model": str(encoder)}
    report: Any = run_grader(Request(grader=multi, **given), TEXTS[0])
    assert report["grade"]["reward"] == pytest.approx(2 * expected)
    request = EvaluateRequest(task="grade", text=TEXTS[0], item=item, embedding_model=str(encoder))
    criteria = CRITERIA.validate_python([COSINE | {"pass_threshold": 0.5}])
    graded: Any = run_graders(criteria, request)
    assert graded["grades"][0]["reward"] == pytest.approx(expected)


def test_too_large_an_embedding_model_is_the_error_of_the_answer(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(AutoModel, "from_pretrained", no_memory)
    asked = question(*TEXTS)
    assert "needs more memory" in similarity_verdicts(str(encoder), [asked])[asked.key].message


@pytest.mark.parametrize(
    ("folder", "words"), [(None, "has named no embedding model"), ("/nowhere", "embedding model cannot be loaded")]
)
def test_a_missing_embedding_model_is_the_error_of_the_answer(folder: str | None, words: str) -> None:
    report: Any = run_grader(
        Request(grader=COSINE, model_sample="a", item={"answer": "b"}, embedding_model=folder), "a"
    )
    assert report["grade"]["reward"] == 0
    assert words in report["grade"]["metadata"]["details"][0]


def test_a_broken_folder_does_not_end_the_process_that_prepares_it(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[{}]")
    prepare(str(tmp_path))
    with pytest.raises(UnusableModel, match="cannot be loaded"):
        EmbeddingModel(tmp_path)


def test_the_prepared_weights_count_in_no_limit_of_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[int] = []
    monkeypatch.setattr(limits, "_lower", lambda which, soft, hard: lowered.append(soft))
    monkeypatch.setattr(limits, "shared_bytes", 5)
    limits.limit_process(memory_bytes=100, cpu_seconds=None, file_bytes=None)
    assert lowered == [0, 105]


def test_a_machine_without_torch_says_what_is_missing(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "worker.shared.embedding_model", None)  # as an import without torch
    asked = question(*TEXTS)
    assert "lacks the libraries" in similarity_verdicts(str(encoder), [asked])[asked.key].message
