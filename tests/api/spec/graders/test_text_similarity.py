"""Against values worked out by hand, and those that the metrics' authors publish."""

import math
import time

import pytest

from api.spec.graders import Case, Verdict, grade
from api.spec.graders.base import EMBEDDING_MODEL
from api.spec.graders.similarity import METRICS
from api.spec.graders.text_similarity import TextSimilarity
from tests.api.spec.graders.graders import graded

CANDIDATE = "It is a guide to action which ensures that the military always obeys the commands of the party"
REFERENCE = "It is a guide to action that ensures that the military will forever heed Party commands"
TEXTS = {"input": "{{ sample.output_text }}", "reference": "{{ item.answer }}"}


def likeness(metric: str, text: str, answer: str) -> float:
    grader = {"type": "text_similarity", "evaluation_metric": metric, **TEXTS}
    return graded(grader, text, answer=answer).reward


def test_fuzzy_match_is_twice_the_common_characters_in_those_of_both() -> None:
    assert likeness("fuzzy_match", "abcd", "abed") == 2 * 3 / 8


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        # The examples of nltk's documentation, from the papers' sentences.
        ("gleu", 0.4393),
        ("meteor", 0.6944),
        # Worked out: the texts have 18 and 16 words, of which 12 are in both, 11 of them in one order.
        ("rouge_1", 2 * 12 / (18 + 16)),
        ("rouge_2", 2 * 8 / (17 + 15)),
        ("rouge_3", 2 * 6 / (16 + 14)),
        ("rouge_l", 2 * 11 / (18 + 16)),
    ],
)
def test_a_known_pair_has_its_known_value(metric: str, value: float) -> None:
    assert likeness(metric, CANDIDATE, REFERENCE) == pytest.approx(value, abs=1e-4)


def test_bleu_is_the_geometric_mean_of_the_precisions() -> None:
    """Of 1- to 4-grams match 11 of 18, 8 of 17, 6 of 16, 4 of 15; no penalty, as the answer is the longer text."""
    mean = math.prod([11 / 18, 8 / 17, 6 / 16, 4 / 15]) ** (1 / 4)
    assert likeness("bleu", CANDIDATE, REFERENCE) == pytest.approx(mean)


def test_bleu_takes_from_an_answer_that_is_too_short() -> None:
    """Every n-gram matches, and the brevity penalty is e^(1 - 8 / 4)."""
    assert likeness("bleu", "a b c d", "a b c d e f g h") == pytest.approx(math.exp(-1))


def test_meteor_matches_words_of_one_stem() -> None:
    """Two matches in one chunk, precision and recall 1: 1 - 0.5 · (1 / 2)³."""
    assert likeness("meteor", "cats running", "cat runs") == pytest.approx(1 - 0.5 / 8)


@pytest.mark.parametrize("metric", METRICS)
def test_a_likeness_is_from_0_to_1_and_best_for_the_same_text(metric: str) -> None:
    same, near, far = (likeness(metric, text, REFERENCE) for text in (REFERENCE, CANDIDATE, "xyz"))
    assert same == pytest.approx(1, abs=1e-3)
    assert 1 > near > far >= 0


@pytest.mark.parametrize("metric", ["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_l"])
def test_one_right_word_is_a_perfect_answer(metric: str) -> None:
    assert likeness(metric, "Paris", "Paris") == 1


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("text", "answer"), [("", "a"), ("a", ""), ("...", "a"), ("a", "...")])
def test_nothing_in_common_is_0(metric: str, text: str, answer: str) -> None:
    assert likeness(metric, text, answer) == 0


@pytest.mark.parametrize("metric", ["rouge_1", "rouge_l", "gleu"])
def test_words_of_other_scripts_are_words(metric: str) -> None:
    assert likeness(metric, "привет мир", "привет мир") == 1
    assert likeness(metric, "привет мир", "до свидания") == 0


@pytest.mark.parametrize("metric", METRICS)
def test_the_longest_texts_take_seconds_at_most(metric: str) -> None:
    words = [f"{number:04}" for number in range(20_000)]
    began = time.perf_counter()
    likeness(metric, " ".join(words)[:99_999], " ".join(reversed(words))[:99_999])
    assert time.perf_counter() - began < 5


def test_cosine_is_a_question_to_the_embedding_model() -> None:
    grader = TextSimilarity.model_validate(
        {"type": "text_similarity", "name": "s", "evaluation_metric": "cosine", **TEXTS}
    )
    case = Case("It is Paris", {"answer": "Paris"})
    (question,) = grader.questions(case)
    assert (question.model, [each["content"] for each in question.messages]) == (
        EMBEDDING_MODEL,
        ["It is Paris", "Paris"],
    )
    assert grade(grader, case.text, case.item, verdicts={question.key: Verdict(0.25)}).reward == 0.25
    assert grader.questions(Case("no answer in the item", {})) == []
