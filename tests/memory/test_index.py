"""Both indexes on corpora small enough to score by hand."""

from __future__ import annotations

import logging
import math

import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_r1.memory.index import LexicalIndex, VectorIndex

EAST, NORTH, BETWEEN = [1.0, 0.0], [0.0, 1.0], [math.sqrt(0.5), math.sqrt(0.5)]


def vectors(*rows: list[float]) -> np.ndarray:
    return np.asarray(rows, dtype=np.float32)


def test_nearest_first_with_the_callers_ids() -> None:
    index = VectorIndex(2)
    index.add([7, 3, 9], vectors(NORTH, EAST, BETWEEN))
    # Inner products with east: 1, cos 45 degrees, 0.
    assert index.search(vectors(EAST)[0], 5) == [(3, 1.0), (9, pytest.approx(0.707107)), (7, 0.0)]
    assert [entry_id for entry_id, _ in index.search(vectors(EAST)[0], 2)] == [3, 9]


def test_empty_index_and_no_k() -> None:
    index = VectorIndex(2)
    assert index.search(vectors(EAST)[0], 3) == []
    index.add([1], vectors(EAST))
    assert index.search(vectors(EAST)[0], 0) == []


def test_removing_and_replacing() -> None:
    index = VectorIndex(2)
    index.add([1, 2], vectors(EAST, EAST))
    index.remove([1, 5])
    assert len(index) == 1
    index.add([2, 1], vectors(NORTH, EAST))
    assert index.search(vectors(EAST)[0], 3) == [(1, 1.0), (2, 0.0)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), unique=True, min_size=1, max_size=70), st.integers(1, 70))
def test_ties_come_in_order_of_insertion_also_at_the_cut(ids: list[int], k: int) -> None:
    rng = np.random.default_rng(len(ids))
    row = rng.normal(size=24).astype(np.float32)
    row /= np.linalg.norm(row)
    index = VectorIndex(24)
    index.add(ids, np.tile(row, (len(ids), 1)))
    assert [entry_id for entry_id, _ in index.search(row, k)] == ids[:k]


def test_a_better_vector_added_later_pushes_out_the_last_of_the_tied() -> None:
    index = VectorIndex(2)
    index.add([8, 5, 6, 2], vectors(BETWEEN, BETWEEN, BETWEEN, EAST))
    assert [entry_id for entry_id, _ in index.search(vectors(EAST)[0], 2)] == [2, 8]
    assert [entry_id for entry_id, _ in index.search(vectors(EAST)[0], 3)] == [2, 8, 5]


def test_bm25_scores_are_the_published_formula() -> None:
    # Lucene's BM25, N = 2 documents of 2 and 1 words (mean 1.5), k1 = 1.5, b = 0.75. "dog" is in one of them:
    # idf = ln(1 + (2 - 1 + 0.5) / (1 + 0.5)) = ln 2; length norm = 1.5 * (1 - 0.75 + 0.75 * 2 / 1.5) = 1.875.
    index = LexicalIndex(["brown dog", "cat"])
    assert index.search("DOG", 5) == [(0, pytest.approx(math.log(2) / (1 + 1.875)))]


PHRASES = st.lists(st.sampled_from(["dog", "cat", "Oslo", "the", "3", "dog.", "chess"]), max_size=9).map(" ".join)


@settings(deadline=None)
@given(st.lists(PHRASES, min_size=1, max_size=30), st.lists(PHRASES, max_size=9), PHRASES)
def test_scores_are_those_of_bm25s_also_after_other_texts(texts: list[str], others: list[str], query: str) -> None:
    words, (asked,) = (
        bm25s.tokenize(said, token_pattern=r"\w+", stopwords="en", return_ids=False, show_progress=False)
        for said in (texts, [query])
    )
    expected: list[float] = []
    if any(words) and asked:
        reference = bm25s.BM25()
        reference.index(words, show_progress=False)
        expected = sorted((score for score in reference.get_scores(asked).tolist() if score > 0), reverse=True)
    known = LexicalIndex([*texts[1:], *others])
    for index in (LexicalIndex(texts), LexicalIndex(texts, known=known)):
        assert [score for _, score in index.search(query, 99)] == expected
        assert index.search(query, 99) == LexicalIndex(texts).search(query, 99)


def test_only_texts_that_share_a_word_are_found_ties_in_order() -> None:
    index = LexicalIndex(["a brown dog", "the cat", "a black dog"], ids=[30, 20, 10])
    assert [entry_id for entry_id, _ in index.search("dog", 9)] == [30, 10]
    assert [entry_id for entry_id, _ in index.search("dog", 1)] == [30]
    assert index.search("dog", 0) == []
    assert index.search("horse", 9) == []


def test_many_equal_texts_come_in_order() -> None:
    index = LexicalIndex(["cat", "dog"] * 50)
    assert [entry_id for entry_id, _ in index.search("dog", 20)] == list(range(1, 41, 2))


def test_one_character_words_count_and_words_are_not_stemmed() -> None:
    index = LexicalIndex(["Ann takes vitamin C", "Ann has 3 dogs"])
    assert [entry_id for entry_id, _ in index.search("c", 9)] == [0]
    assert [entry_id for entry_id, _ in index.search("3", 9)] == [1]
    assert index.search("dog", 9) == []


@pytest.mark.parametrize("texts", [[], [""], ["", "the of", "!?"]])
@pytest.mark.filterwarnings("error")
def test_texts_without_words_find_nothing(texts: list[str]) -> None:
    assert LexicalIndex(texts).search("dog", 3) == []


@pytest.mark.parametrize("query", ["", "  ", "the of", "?"])
def test_queries_without_words_find_nothing(query: str) -> None:
    assert LexicalIndex(["brown dog"]).search(query, 3) == []


def test_a_single_text_is_found() -> None:
    assert [entry_id for entry_id, _ in LexicalIndex(["brown dog"], ids=[4]).search("dog", 3)] == [4]


def test_texts_and_ids_must_match() -> None:
    with pytest.raises(ValueError, match="2 texts came with 1 ids"):
        LexicalIndex(["a", "b"], ids=[1])


def test_indexing_is_quiet(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    LexicalIndex(["brown dog"]).search("dog", 1)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
