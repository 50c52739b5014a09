"""Pure scoring maths: normalisation, exact match, the three F1s in use on LoCoMo, BLEU-1 and evidence recall.

Papers report several metrics as "F1" on LoCoMo, some points apart, so each variant has its own name here:
`f1_squad` (multiset, articles dropped), `f1_mem0` (set based: Mem0, A-Mem, Memory-R2) and `f1_locomo` (the benchmark's
own: stemmed, with rules for each category).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nltk.stem import PorterStemmer
    from nltk.tokenize import NLTKWordTokenizer

ANSWER_METRICS = ("exact_match", "f1_mem0", "f1_locomo", "f1_squad", "bleu1")
"""The metrics of `score_answer`, in the order of `results.json`."""

_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)
_MEM0_BLANKS = str.maketrans(".,!?", "    ")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ARTICLES_AND = re.compile(r"\b(a|an|the|and)\b")
_REFUSALS = ("no information available", "not mentioned")


def normalize_answer(text: str) -> str:
    """Lower-case, drop ASCII punctuation and a/an/the, collapse whitespace (SQuAD, Rajpurkar et al. 2016)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_DROP_PUNCTUATION)).split())


def exact_match(prediction: str, gold: str) -> float:
    """Return 1.0 if both are equal after `normalize_answer`, else 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(gold))


def holds_answer(text: str, gold: str) -> bool:
    """Whether the gold answer stands in a text, word by word, after `normalize_answer`; an empty one never does."""
    words = normalize_answer(gold)
    return bool(words) and f" {words} " in f" {normalize_answer(text)} "


def f1_squad(prediction: str, gold: str) -> float:
    """Return the token F1 on multisets after `normalize_answer`; two empty answers score 1.0 (SQuAD 2.0)."""
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(gold).split()
    if not predicted or not expected:
        return float(predicted == expected)
    return _token_f1(predicted, expected)


def f1_mem0(prediction: str, gold: str) -> float:
    """Return the token F1 on *sets*, `.,!?` blanked, articles kept; 0.0 if either is empty (Mem0's evaluation)."""
    predicted = set(prediction.lower().translate(_MEM0_BLANKS).split())
    expected = set(gold.lower().translate(_MEM0_BLANKS).split())
    return _token_f1(predicted, expected)


def f1_locomo(prediction: str, gold: str, category: str) -> float:
    """Return LoCoMo's own score (`task_eval/evaluation.py`): stemmed token F1 with rules for some categories.

    "1" (multi-hop): both are split at commas; the score is the mean over gold parts of the best predicted part.
    "3" (open-domain): only the gold before the first `;` counts. "5" (adversarial): 1.0 if the prediction says "no
    information available" or "not mentioned", whatever the gold. All others: plain stemmed F1.
    """
    if category == "1":
        parts = prediction.split(",")
        golds = gold.split(",")
        return sum(max(_f1_stemmed(part, expected) for part in parts) for expected in golds) / len(golds)
    if category == "3":
        return _f1_stemmed(prediction, gold.split(";")[0])
    if category == "5":
        return float(any(refusal in prediction.lower() for refusal in _REFUSALS))
    return _f1_stemmed(prediction, gold)


def bleu1(prediction: str, gold: str) -> float:
    """Return lower-cased unigram BLEU with brevity penalty and nltk's smoothing method 1 (Mem0's B1).

    Mem0's `nltk.word_tokenize` first splits sentences with a model that must be downloaded. Here the same word
    tokenizer treats the text as one sentence, so an inner full stop stays attached to its word. Single-sentence
    answers score the same.
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    predicted = _word_tokenizer().tokenize(prediction.lower())
    expected = _word_tokenizer().tokenize(gold.lower())
    if not predicted or not expected:
        return 0.0
    smoothing = SmoothingFunction().method1
    return float(sentence_bleu([expected], predicted, weights=(1.0, 0.0, 0.0, 0.0), smoothing_function=smoothing))


def evidence_recall(evidence: Collection[str], source_turn_ids: Iterable[str]) -> float | None:
    """Return the share of evidence turns among the source turns of the recalled entries; None without evidence.

    LoCoMo's script scores a question without evidence 1.0, which rewards retrieving nothing; here it is excluded.
    """
    wanted = set(evidence)
    if not wanted:
        return None
    return len(wanted.intersection(source_turn_ids)) / len(wanted)


def score_answer(prediction: str, gold: str, category: str) -> dict[str, float]:
    """Return every metric of `ANSWER_METRICS` for one answer; only `f1_locomo` depends on `category`."""
    return {
        "exact_match": exact_match(prediction, gold),
        "f1_mem0": f1_mem0(prediction, gold),
        "f1_locomo": f1_locomo(prediction, gold, category),
        "f1_squad": f1_squad(prediction, gold),
        "bleu1": bleu1(prediction, gold),
    }


def _token_f1(predicted: Collection[str], expected: Collection[str]) -> float:
    """Return 2 * common / total length; a set counts each token once, a list counts repeats."""
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected)) if common else 0.0


def _f1_stemmed(prediction: str, gold: str) -> float:
    return _token_f1(_locomo_tokens(prediction), _locomo_tokens(gold))


def _locomo_tokens(text: str) -> Sequence[str]:
    """Normalise as LoCoMo does: drop "and" as well as the articles, then stem."""
    words = _ARTICLES_AND.sub(" ", text.lower().translate(_DROP_PUNCTUATION)).split()
    return [_stem(word) for word in words]


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    return str(_stemmer().stem(word))


@cache
def _stemmer() -> PorterStemmer:
    from nltk.stem import PorterStemmer

    return PorterStemmer()


@cache
def _word_tokenizer() -> NLTKWordTokenizer:
    from nltk.tokenize import NLTKWordTokenizer

    return NLTKWordTokenizer()
