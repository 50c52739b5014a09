"""Memory tokens in a bounded pool: what is kept, what is dropped, and what the Answer Agent is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_r1.errors import ConfigurationError
from memory_r1.inference.language_model import LATENTS
from memory_r1.systems import latent_tokens
from memory_r1.systems.latent_tokens import LatentTokens, Pool, spoken
from memory_r1.types import Turn
from tests.fakes import FakeWeaver


def turn(number: int, text: str = "") -> Turn:
    return Turn(f"D1:{number}", "Ann", text or f"fact {number}", "s1", "2023-05-01T10:00:00")


def played(turns: int, pool: int = 50, seed: int = 0, weaver: FakeWeaver | None = None) -> LatentTokens:
    system = LatentTokens(weaver or FakeWeaver(), pool=pool, seed=seed)
    for number in range(1, turns + 1):
        system.observe(turn(number), "a")
    return system


def test_a_full_pool_keeps_a_token_through_k_writes_with_probability_1_less_1_over_n_to_the_k() -> None:
    texts, vectors, pools = 4, 8, 300
    first_full = texts  # the 4th write fills the pool
    for writes, expected in ((0, 1.0), (1, 0.75), (2, 0.5625), (6, 0.1780)):  # (3/4)^k
        left = [
            len(Pool(texts, vectors, f"seed {number}").after(first_full + writes).get(first_full, []))
            for number in range(pools)
        ]
        assert sum(left) / (pools * vectors) == pytest.approx(expected, abs=0.03), writes


def test_a_pool_drops_nothing_before_it_is_full_and_never_exceeds_its_size() -> None:
    pool = Pool(texts=4, vectors=3, seed="0")
    sizes = [sum(map(len, pool.after(writes).values())) for writes in range(40)]
    assert sizes == [0, 3, 6, 9, *[12] * 36]
    assert pool.after(40)[40] == [0, 1, 2]  # what was just written is whole


def test_the_same_writes_leave_the_same_tokens_however_they_are_counted() -> None:
    at_once, step_by_step = Pool(4, 3, "0"), Pool(4, 3, "0")
    for writes in range(20):
        step_by_step.after(writes)
    assert at_once.after(20) == step_by_step.after(20)
    assert step_by_step.after(7) == Pool(4, 3, "0").after(7)  # a scope that was forgotten starts again
    assert Pool(4, 3, "1").after(20) != at_once.after(20)
    system = played(20, pool=4)
    for number in range(1, 21):
        system.observe(turn(number), "b")
    assert system.tokens_left("a") != system.tokens_left("b")  # each scope draws for itself
    assert system.tokens_left("a") == played(20, pool=4).tokens_left("a")


def test_a_recall_holds_the_tokens_left_of_each_turn_and_none_of_its_text() -> None:
    weaver = FakeWeaver()
    system = played(6, pool=2, weaver=weaver)
    recall = system.recall("what is fact 3", "a")
    left = system.tokens_left("a")
    assert sum(map(len, left.values())) == len(recall.latents) == 6
    expected = [
        weaver.compress([spoken(entry)])[0][number] for entry in recall.items for number in left[entry.entry_id]
    ]
    assert list(recall.latents) == expected
    ids = [entry.entry_id for entry in recall.items]
    assert ids == sorted(ids)  # oldest first, the newest next to the question
    assert recall.usage == {"tokens": 6, "cut": 0}
    assert LATENTS in recall.text
    assert "fact" not in recall.text


def test_the_weaver_reads_who_spoke_and_on_which_day() -> None:
    weaver = FakeWeaver()
    system = LatentTokens(weaver)
    record = system.observe(Turn("D1:1", "Ann", "I moved to Oslo", "s1", "2023-05-08T13:56:00"), "a")
    assert weaver.texts == ["[Monday 8 May 2023]\nAnn: I moved to Oslo"]
    assert (record.model_calls, record.cut) == (1, 0)
    assert record.prompt_tokens > weaver.vectors


def test_tokens_of_a_scope_never_reach_another() -> None:
    system = played(3)
    system.observe(turn(1, "secret"), "b")
    mine = set(system.recall("q", "a").latents)
    assert mine.isdisjoint(system.recall("q", "b").latents)
    assert mine == set(played(3).recall("q", "a").latents)
    assert system.recall("q", "nobody").latents == ()


def test_a_forgotten_turn_takes_its_tokens_along_and_changes_no_others() -> None:
    system = played(8, pool=2)
    left = system.tokens_left("a")
    gone = next(iter(left))
    others = [tokens for item, tokens in left.items() if item != gone]
    system.forget("a", {gone})
    recall = system.recall("q", "a")
    assert gone not in {entry.entry_id for entry in recall.items}
    assert len(recall.latents) == sum(map(len, others))


def test_a_loaded_memory_reads_its_cached_tokens_and_weaves_them_anew_without(tmp_path: Path) -> None:
    """Only the turns of which tokens are left: the others would be read for nothing."""
    system = played(30, pool=2)
    expected, left = system.recall("q", "a").latents, len(system.tokens_left("a"))
    assert left < 10
    system.save(tmp_path / "memory")  # a log in memory holds no vectors
    for texts in (left, 0):  # the first load weaves the turns and caches them in the file
        weaver = FakeWeaver()
        loaded = LatentTokens(weaver, pool=2)
        loaded.load(tmp_path / "memory")
        assert loaded.recall("q", "a").latents == expected
        assert len(weaver.texts) == texts
    other = FakeWeaver()
    other.identity = "another"  # its tokens mean something else
    again = LatentTokens(other, pool=2)
    again.load(tmp_path / "memory")
    again.recall("q", "a")
    assert len(other.texts) == left


def test_tokens_that_memory_has_no_room_for_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = played(9).recall("q", "a").latents
    monkeypatch.setattr(latent_tokens, "MOST_WOVEN", 4)
    weaver = FakeWeaver()
    system = played(9, weaver=weaver)
    assert (len(weaver.texts), system.recall("q", "a").latents, len(weaver.texts)) == (9, expected, 9 + 5)
    system.load(tmp_path / "memory", create=True)
    for number in range(1, 10):
        system.observe(turn(number), "a")
        system.recall("q", "a")
    woven = len(weaver.texts)
    assert (system.recall("q", "a").latents, len(weaver.texts)) == (expected, woven)  # from the file


def test_a_pool_without_room_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="pool is 0"):
        LatentTokens(FakeWeaver(), pool=0)
