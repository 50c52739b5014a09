"""Fusion computed by hand, and the results of queries."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_r1.errors import ConfigurationError
from memory_r1.memory.index import LexicalIndex
from memory_r1.memory.retriever import RetrievalMode, RetrievalRequest, Retriever, reciprocal_rank_fusion
from memory_r1.types import MemoryEntry
from tests.fakes import FakeEmbedder

MODES: list[RetrievalMode] = ["hybrid", "dense", "bm25"]


def entry(entry_id: int, text: str, speaker: str = "Ann") -> MemoryEntry:
    return MemoryEntry(entry_id, text, speaker, "2023-05-08T13:56:00")


def ids(entries: tuple[MemoryEntry, ...]) -> list[int]:
    return [found.entry_id for found in entries]


BANK = (
    entry(1, "likes red wine"),
    entry(2, "adopted a dog named Rex"),
    entry(3, "works in Oslo", "Ben"),
    entry(4, "walks the dog daily", "Ben"),
    entry(5, "plays chess", "Ben"),
)
speakers = st.sampled_from(["Ann", "Ben", "Cid"])
banks = st.lists(st.tuples(st.sampled_from(["dog", "red dog", "Oslo", "", "the"]), speakers), max_size=12).map(
    lambda rows: [entry(number, text, speaker) for number, (text, speaker) in enumerate(rows, start=1)]
)


def test_fusion_by_hand() -> None:
    # 1/61 + 1/63 = 0.03227 for 8; 1/62 + 1/61 = 0.03252 for 5; 1/63 = 0.0159 for 2; 1/62 = 0.0161 for 9.
    assert reciprocal_rank_fusion([[8, 5, 2], [5, 9, 8]]) == [5, 8, 9, 2]
    # Twice third beats once first if the constant is large (2/63 > 1/61), not if it is 0 (2/3 < 1).
    assert reciprocal_rank_fusion([[1, 5, 2], [6, 7, 2]])[0] == 2
    assert reciprocal_rank_fusion([[1, 5, 2], [6, 7, 2]], constant=0) == [1, 6, 2, 5, 7]
    # With 1 they are equal (2/4 = 1/2), so the first ranking decides.
    assert reciprocal_rank_fusion([[1, 5, 2], [6, 7, 2]], constant=1) == [1, 2, 6, 5, 7]


def test_ties_go_by_the_first_ranking_then_by_id() -> None:
    assert reciprocal_rank_fusion([[7, 3], [3, 7]]) == [7, 3]
    assert reciprocal_rank_fusion([[], [9], [4]]) == [4, 9]
    assert reciprocal_rank_fusion([[5], [4]]) == [5, 4]


def test_fusing_nothing_and_repeated_ids() -> None:
    assert reciprocal_rank_fusion([]) == []
    assert reciprocal_rank_fusion([[], []]) == []
    assert reciprocal_rank_fusion([[1, 1, 2], [2, 1]]) == [1, 2]  # The repeat takes no rank of its own.


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9)), max_size=4))
def test_every_id_comes_back_once(rankings: list[list[int]]) -> None:
    fused = reciprocal_rank_fusion(rankings)
    assert sorted(fused) == sorted({item for ranking in rankings for item in ranking})


@pytest.mark.parametrize("mode", MODES)
def test_shared_words_come_first(mode: RetrievalMode) -> None:
    found = Retriever(FakeEmbedder(), mode).retrieve("dog Rex", BANK, k=2)
    assert ids(found) == [2, 4]


@pytest.mark.parametrize("mode", MODES)
def test_fewer_entries_than_k_come_back_whole(mode: RetrievalMode) -> None:
    retriever = Retriever(FakeEmbedder(), mode)
    assert sorted(ids(retriever.retrieve("dog", BANK, k=60))) == [1, 2, 3, 4, 5]
    assert retriever.retrieve("dog", (), k=3) == ()
    assert retriever.retrieve("dog", BANK, k=0) == ()
    assert len(retriever.retrieve("", BANK, k=3)) == 3


def test_bm25_fills_up_with_the_rest_in_bank_order() -> None:
    assert ids(Retriever(None, "bm25").retrieve("chess", BANK, k=4)) == [5, 1, 2, 3]


def test_the_speakers_name_is_searched_too() -> None:
    assert set(ids(Retriever(None, "bm25").retrieve("Ben", BANK, k=3))) == {3, 4, 5}


def test_k_counts_per_speaker_and_the_best_come_first() -> None:
    retriever = Retriever(None, "bm25")
    # "dog" matches 4 and 2, of four and five words with the speaker's name: the shorter one first. Then bank order.
    assert ids(retriever.retrieve("dog", BANK, k=1, speakers=("Ann", "Ben"))) == [4, 2]
    assert ids(retriever.retrieve("dog", BANK, k=2, speakers=("Ann", "Ben"))) == [4, 2, 1, 3]


def test_other_speakers_come_last_and_are_not_lost() -> None:
    bank = (*BANK, entry(6, "dog dog dog", "Cid"), entry(7, "tea", "Cid"))
    retriever = Retriever(None, "bm25")
    assert ids(retriever.retrieve("dog", bank, k=1, speakers=("Ann", "Ben"))) == [4, 2, 6]
    assert ids(retriever.retrieve("tea", bank, k=1, speakers=("Ann",)))[-1] == 7


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None)
@given(bank=banks, k=st.integers(0, 14), named=st.lists(speakers, unique=True, max_size=2))
def test_each_group_gives_its_own_best(mode: RetrievalMode, bank: list[MemoryEntry], k: int, named: list[str]) -> None:
    retriever = Retriever(FakeEmbedder(), mode)
    found = retriever.retrieve("red dog", bank, k, named)
    ranking = retriever.retrieve("red dog", bank, len(bank))
    assert sorted(ids(ranking)) == sorted(ids(tuple(bank)))
    groups = [[e for e in ranking if e.speaker == name] for name in named]
    others = [e for e in ranking if e.speaker not in named][:k]
    if named:
        chosen = [e for group in groups for e in group[:k]]
        assert list(found) == sorted(chosen, key=ranking.index) + others
    else:
        assert list(found) == list(ranking[:k])


@settings(deadline=None)
@given(bank=banks, query=st.sampled_from(["red dog", "Ann in Oslo", "tea", ""]))
def test_a_hybrid_search_fuses_a_dense_one_and_one_by_words(bank: list[MemoryEntry], query: str) -> None:
    dense = ids(Retriever(FakeEmbedder(), "dense").retrieve(query, bank, len(bank)))
    worded = LexicalIndex([f"{e.speaker}: {e.text}" for e in bank], ids(tuple(bank))).search(query, len(bank))
    fused = reciprocal_rank_fusion([dense, [entry_id for entry_id, _ in worded]])
    assert ids(Retriever(FakeEmbedder()).retrieve(query, bank, len(bank))) == fused


@pytest.mark.parametrize("mode", MODES)
def test_equal_entries_come_in_bank_order(mode: RetrievalMode) -> None:
    bank = [entry(number, "red dog and Oslo") for number in (9, 3, 7, 1, 8, 2)]
    assert ids(Retriever(FakeEmbedder(), mode).retrieve("dog", bank, k=4)) == [9, 3, 7, 1]


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None)
@given(requests=st.lists(st.tuples(st.sampled_from(["dog", "red", "", "the"]), banks, st.integers(0, 5)), max_size=24))
def test_many_requests_are_answered_as_one_by_one(
    mode: RetrievalMode, requests: list[tuple[str, list[MemoryEntry], int]]
) -> None:
    wanted = [RetrievalRequest(query, bank, k, ("Ann",)) for query, bank, k in requests]
    alone = [Retriever(FakeEmbedder(), mode).retrieve(r.query, r.entries, r.k, r.speakers) for r in wanted]
    retriever = Retriever(FakeEmbedder(), mode)
    assert retriever.retrieve_many(wanted) == alone
    assert retriever.retrieve_many(wanted[::-1]) == alone[::-1]  # By now some banks are cached, others not.


def test_all_texts_of_all_requests_are_embedded_in_one_call() -> None:
    embedder = FakeEmbedder()
    retriever = Retriever(embedder)
    retriever.retrieve_many([RetrievalRequest("dog", BANK, 2), RetrievalRequest("tea", BANK[:2], 2)])
    assert len(embedder.calls) == 1
    assert sorted(embedder.calls[0]) == sorted({"dog", "tea", *(f"{e.speaker}: {e.text}" for e in BANK)})
    retriever.retrieve("wine", BANK, 2)
    assert embedder.calls[1] == ["wine"]  # The bank's index is reused.


def test_after_a_write_only_what_is_new_is_embedded() -> None:
    embedder = FakeEmbedder()
    retriever = Retriever(embedder)
    retriever.retrieve("dog", BANK, 2)
    changed = (*BANK[:2], entry(3, "works in Bergen", "Ben"), BANK[4], entry(6, "likes tea"))
    retriever.retrieve("dog", changed, 2)
    assert sorted(embedder.calls[1]) == ["Ann: likes tea", "Ben: works in Bergen", "dog"]
    assert len(retriever._indexes) == 1  # that of the bank as it is


@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None)
@given(history=st.lists(banks, max_size=6))
def test_a_bank_that_grew_and_changed_is_ranked_like_a_new_one(
    mode: RetrievalMode, history: list[list[MemoryEntry]]
) -> None:
    retriever = Retriever(FakeEmbedder(), mode)
    for bank in history:
        found = retriever.retrieve("red dog", [BANK[0], *bank], 9)
        assert found == Retriever(FakeEmbedder(), mode).retrieve("red dog", [BANK[0], *bank], 9)


def test_a_changed_entry_is_found_by_its_new_text() -> None:
    retriever = Retriever(FakeEmbedder())
    assert ids(retriever.retrieve("wine", BANK, k=1)) == [1]
    changed = (entry(1, "likes tea"), entry(2, "serves wine"), *BANK[2:])
    assert ids(retriever.retrieve("wine", changed, k=1)) == [2]


def test_clearing_drops_indexes_and_the_embedders_cache() -> None:
    embedder = FakeEmbedder()
    retriever = Retriever(embedder)
    retriever.retrieve("dog", BANK, k=1)
    retriever.clear()
    assert embedder.clears == 1
    assert not retriever._indexes
    Retriever(None, "bm25").clear()


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="allowed are hybrid, dense, bm25"):
        Retriever(FakeEmbedder(), "sparse")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="needs an embedder"):
        Retriever(None)
