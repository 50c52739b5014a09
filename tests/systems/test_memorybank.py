"""MemoryBank: R = exp(-t / S) against values derived by hand, strength, summaries by day, portraits, forgetting."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from memory_r1.errors import ConfigurationError
from memory_r1.systems.memorybank import MemoryBankSystem
from memory_r1.systems.memorybank_state import days_between, retention
from memory_r1.systems.writer import Writer, count_writings
from memory_r1.types import Turn
from tests.fakes import FakeEmbedder, ScriptedLanguageModel


def system(**options: object) -> MemoryBankSystem:
    writer = options.pop("writer", None)
    return MemoryBankSystem(FakeEmbedder(), writer, **{"recall_per_speaker": 3, **options})  # type: ignore[arg-type]


def play(memory: MemoryBankSystem, *sessions: tuple[int, tuple[str, ...]], scope: str = "a") -> MemoryBankSystem:
    """Play sessions of Ann's turns, each on a day of May 2023."""
    for day, texts in sessions:
        time = f"2023-05-{day:02}T10:00:00"
        for number, text in enumerate(texts, 1):
            memory.observe(Turn(f"D{day}:{number}", "Ann", text, f"s{day}", time), scope)
        memory.end_session(scope, time)
    return memory


def turns(memory: MemoryBankSystem) -> list[str]:
    return [entry.text for entry in memory.state("a").turns()]


def test_the_curve_is_the_papers_not_the_released_codes() -> None:
    assert retention(0, 1) == 1
    assert retention(1, 1) == pytest.approx(0.3678794)
    assert retention(6, 2) == pytest.approx(0.0497871)  # e^-3
    assert retention(6, 3) == pytest.approx(0.1353353)  # e^-2: a stronger memory fades more slowly
    assert days_between("2023-04-29T23:00:00", "2023-05-02T01:00:00") == 3
    assert days_between("", "2023-05-02") == days_between("2023-05-02", "2023-05-01") == 0


def test_an_entry_lasts_three_days_less_a_little_per_strength() -> None:
    """The threshold is 0.05: e^-2 = 0.135 stays, e^-3 = 0.0498 goes."""
    told = (1, ("likes fish",))
    assert turns(play(system(), told, (3, ("plays chess",)))) == ["likes fish", "plays chess"]
    # The second session recalls the only earlier turn, so on day 3 it has S = 2 and t = 0, on day 9 t / S = 3.
    memory = play(system(), told, (3, ("plays chess",)))
    assert memory.state("a").strength[1] == 2
    assert memory.state("a").retention(1, "2023-05-08") == pytest.approx(math.exp(-5 / 2))
    assert memory.state("a").retention(1, "2023-05-09") == pytest.approx(math.exp(-3))


def test_what_a_turn_recalls_lives_on_and_the_rest_is_forgotten() -> None:
    memory = system(recalled_per_turn=1)
    play(memory, (1, ("likes fish", "paints boats")), (6, ("fish again",)))
    # Day 6: t = 5 for "paints boats" (e^-5 = 0.007), t = 0 for the recalled turn.
    assert turns(memory) == ["likes fish", "fish again"]
    assert memory.state("a").strength.get(1) == 2
    assert 2 not in memory.state("a").strength


def test_turns_of_the_running_session_are_not_recalled_and_each_turn_recalls_anew() -> None:
    memory = play(system(), (1, ("likes fish", "fish is fine", "more fish")))
    assert dict(memory.state("a").strength) == {}
    play(memory, (2, ("fish", "fish", "fish")))
    assert [memory.state("a").strength[entry_id] for entry_id in (1, 2, 3)] == [4, 4, 4]  # 1 + 3 recalls


def test_a_questions_recall_writes_nothing() -> None:
    memory = play(system(), (1, ("likes fish",)))
    before = memory.records("a")
    assert memory.recall("fish", "a", "2023-06-01T00:00:00").items
    assert memory.records("a") == before


def test_a_day_has_one_summary_and_a_speaker_one_portrait_by_the_model() -> None:
    replies = ScriptedLanguageModel()  # repeats what it was told
    memory = play(system(writer=Writer(replies)), (1, ("likes fish",)), (1, ("paints boats",)), (2, ("plays chess",)))
    state = memory.state("a")
    days = {day: state.bank.get(item) for day, item in state.summaries.items()}
    assert days["2023-05-01"].text == "Ann: likes fish Ann: paints boats"
    assert days["2023-05-01"].source_turn_ids == ("D1:1",)
    assert days["2023-05-02"].text == "Ann: plays chess"
    portrait = state.bank.get(state.portraits["Ann"])
    assert (portrait.speaker, portrait.source_turn_ids) == ("Ann", ("D1:1", "D2:1"))
    assert "Known before:" in portrait.text and portrait.text.count("Describe Ann.") == 3
    assert count_writings(memory.records("a")) == {"written_by_model": 6, "written_by_rules": 0}
    assert sum(record.model_calls for record in memory.records("a")) == 6


def test_without_a_model_rules_write_from_the_statements() -> None:
    memory = play(system(), (1, ("I like fish. Hello!", "How are you?", "My cat sleeps.")))
    state = memory.state("a")
    assert state.bank.get(state.summaries["2023-05-01"]).text == "Ann: I like fish. Ann: My cat sleeps."
    assert state.bank.get(state.portraits["Ann"]).text == "I like fish. My cat sleeps."
    assert count_writings(memory.records("a")) == {"written_by_model": 0, "written_by_rules": 2}


def test_summaries_fade_and_portraits_do_not() -> None:
    memory = system(recalled_per_turn=1)
    play(memory, (1, ("I like fish.",)), (20, ("My boat is red.",)))
    state = memory.state("a")
    assert [state.summaries[day] in state.bank for day in ("2023-05-01", "2023-05-20")] == [False, True]
    assert state.bank.get(state.portraits["Ann"]).text == "I like fish. My boat is red."
    assert state.portraits["Ann"] in [entry.entry_id for entry in memory.recall("boat", "a").items]


def test_seeded_forgetting_is_the_same_again_and_independent_of_other_scopes() -> None:
    facts = tuple(f"fact {number}" for number in range(40))
    sessions = ((1, facts), (2, ("hello",)))
    options = {"forgetting": "seeded", "recalled_per_turn": 0}
    kept = turns(play(system(**options, seed=7), *sessions))
    crowded = play(system(**options, seed=7), *sessions, scope="b")
    assert turns(play(crowded, *sessions)) == kept
    assert turns(play(system(**options, seed=8), *sessions)) != kept
    # After a day a fact stays with probability e^-1 = 0.37: 14.7 of 40 expected, with a deviation of 3.1.
    assert 6 < len(kept) - 1 < 24


def test_a_forgotten_turn_takes_along_what_was_written_from_it(tmp_path: Path) -> None:
    memory = play(system(writer=Writer(ScriptedLanguageModel())), (1, ("owns secretcats",)), (2, ("plays chess",)))
    assert memory.forget("a", {1}) == 3  # the turn, its day's summary, and the portrait
    memory.save(tmp_path / "memory")
    content = (tmp_path / "memory").read_bytes()
    assert (b"secretcats" in content, b"plays chess" in content) == (False, True)
    play(memory, (3, ("paints boats",)))
    assert "secretcats" not in str(memory.entries("a"))


@pytest.mark.parametrize("options", [{"forgetting": "never"}, {"forget_below": 1.5}])
def test_what_is_out_of_range_is_refused(options: dict[str, object]) -> None:
    (name,) = options
    with pytest.raises(ConfigurationError, match=f"{name} is "):
        system(**options)
