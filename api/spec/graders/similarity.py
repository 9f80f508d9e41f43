"""The metrics of `text_similarity`: how similar two texts are, from 0 to 1.

rapidfuzz and nltk compute all metrics except ROUGE, which is implemented here: ROUGE's usual package is unmaintained
and drops all letters but a to z, which would leave nothing of a text in another script.

nltk takes 0.3 s and 40 MB to import. It is imported inside the functions, so that the API and trainers without such a
grader do not load it.
"""

import re
from collections import Counter
from collections.abc import Callable
from functools import partial

from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq

_TOKEN = re.compile(r"\w+|[^\w\s]")
_WORD = re.compile(r"[^\W_]+")


def fuzzy_match(text: str, reference: str) -> float:
    """Return 2 M / T, where the longest common subsequence has M characters and both texts together have T. Two empty
    texts give 1."""
    return fuzz.ratio(text, reference) / 100


def bleu(text: str, reference: str) -> float:
    """BLEU of one sentence (Papineni et al. 2002) over words and punctuation, with n-grams of orders 1 to 4, or up to
    the text's length if it has fewer than four tokens. An order without a match is smoothed by the NIST method (Chen
    and Cherry 2014, method 3)."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # noqa: PLC0415

    smoothing = SmoothingFunction().method3
    return float(
        sentence_bleu([tokens(reference)], tokens(text), smoothing_function=smoothing, auto_reweigh=True),
    )


def gleu(text: str, reference: str) -> float:
    """The lesser of precision and recall over all n-grams of orders 1 to 4 (Wu et al. 2016, arXiv:1609.08144)."""
    from nltk.translate.gleu_score import sentence_gleu  # noqa: PLC0415

    return float(sentence_gleu([tokens(reference)], tokens(text)))


class _NoSynonyms:
    """Replaces WordNet, whose data nltk would have to download."""

    def synsets(self, word: str) -> list[object]:
        return []


def meteor(text: str, reference: str) -> float:
    """METEOR (Lavie and Agarwal 2007) with exact and Porter-stem matches, without WordNet's synonyms. Its penalty for
    fragmented matches lowers the score of a correct answer of one word to 0.5."""
    from nltk.translate.meteor_score import single_meteor_score  # noqa: PLC0415

    return float(single_meteor_score(tokens(reference), tokens(text), wordnet=_NoSynonyms()))


def rouge_n(text: str, reference: str, *, n: int) -> float:
    """ROUGE-N (Lin 2004) as F1: the n-grams of lower-case words that both texts share."""
    ours, theirs = (_ngrams(words(side), n) for side in (text, reference))
    return _f1((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L (Lin 2004) as F1: the longest common subsequence of lower-case words."""
    ours, theirs = words(text), words(reference)
    return _f1(LCSseq.similarity(ours, theirs), len(ours), len(theirs))


def tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _ngrams(sequence: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(sequence[start:] for start in range(n)), strict=False))


def _f1(common: int, ours: int, theirs: int) -> float:
    return 2 * common / (ours + theirs) if common else 0.0


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "meteor": meteor,
    "rouge_1": partial(rouge_n, n=1),
    "rouge_2": partial(rouge_n, n=2),
    "rouge_3": partial(rouge_n, n=3),
    "rouge_4": partial(rouge_n, n=4),
    "rouge_5": partial(rouge_n, n=5),
    "rouge_l": rouge_l,
}
