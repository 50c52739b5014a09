"""The agents' exact prompts, and how their completions are parsed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_r1.agents.prompts import (
    ANSWER_INSTRUCTIONS,
    ANSWER_MARKER,
    MANAGER_INSTRUCTIONS,
    SESSION_INSTRUCTIONS,
    answer_prompt,
    manager_prompt,
    parse_answer,
    parse_distilled,
    parse_quoted,
    parse_relied_on,
    render_answer,
    render_quoted_answer,
    session_prompt,
)
from memory_r1.types import MemoryEntry, Turn

MAY, JUNE = "2023-05-08T13:56:00", "2023-06-01T00:00:00"
ROME = MemoryEntry(7, "Ann lives in Rome", "Ann", MAY, ("s1:1",))
BIKE = MemoryEntry(3, "Ben sold his bicycle", "Ben", "", ("s1:2",))
DOG = MemoryEntry(12, "Ann has a dog", "Ann", JUNE, ("s2:1",))

WORDS = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=20)
ENTRIES = st.lists(
    st.builds(
        MemoryEntry,
        entry_id=st.integers(1, 99),
        text=WORDS,
        speaker=st.sampled_from(["Ann", "Ben", "Cleo", ""]),
        timestamp=st.sampled_from(["", MAY, JUNE]),
    ),
    max_size=8,
    unique_by=lambda entry: entry.entry_id,
)


def test_the_manager_reads_numbered_memories_then_the_turn_after_those_before_it() -> None:
    previous = (Turn("s2:1", "Ann", "Guess what.", "s2", JUNE), Turn("s2:2", "Ben", "What?", "s2", JUNE))
    system, user = manager_prompt(Turn("s2:3", "Ann", "I moved to Oslo.", "s2", JUNE), previous, (ROME, BIKE))
    assert system == {"role": "system", "content": MANAGER_INSTRUCTIONS}
    assert user["role"] == "user"
    assert user["content"].splitlines() == [
        "Memories:",
        "1. Ann lives in Rome [Monday 8 May 2023]",
        "2. Ben sold his bicycle",
        "Dialogue [Thursday 1 June 2023]:",
        "Ann: Guess what.",
        "Ben: What?",
        "Last turn: Ann: I moved to Oslo.",
    ]


def test_a_session_is_read_whole_with_its_turns_numbered() -> None:
    turns = (Turn("s2:1", "Ann", "Guess what.", "s2", JUNE), Turn("s2:2", "Ann", "I moved to Oslo.", "s2", JUNE))
    system, user = session_prompt(turns, (ROME, BIKE))
    assert system == {"role": "system", "content": SESSION_INSTRUCTIONS}
    assert user["content"].splitlines() == [
        "Memories:",
        "1. Ann lives in Rome [Monday 8 May 2023]",
        "2. Ben sold his bicycle",
        "Session [Thursday 1 June 2023]:",
        "Turn 1: Ann: Guess what.",
        "Turn 2: Ann: I moved to Oslo.",
    ]
    _, bare = session_prompt((Turn("t", "Ann", "Hello."),), ())
    assert bare["content"].splitlines() == ["Memories:", "none", "Session:", "Turn 1: Ann: Hello."]


def test_a_manager_with_nothing_recalled_reads_that_there_is_none() -> None:
    _, user = manager_prompt(Turn("t", "Ann", "Hello."), (), ())
    assert user["content"].splitlines() == ["Memories:", "none", "Dialogue:", "Last turn: Ann: Hello."]


def test_the_answer_agent_reads_a_block_for_each_speaker_numbered_through() -> None:
    # Best first: 7 (Ann), 3 (Ben), 12 (Ann); Ann's block comes first, since her entry is the best.
    messages, numbered = answer_prompt("Where does Ann live?", (ROME, BIKE, DOG), asked_at=JUNE)
    assert numbered == [7, 12, 3]
    assert messages[0] == {"role": "system", "content": ANSWER_INSTRUCTIONS["ids"]}
    assert messages[1]["content"].splitlines() == [
        "Memories of Ann:",
        "1. Ann lives in Rome [Monday 8 May 2023]",
        "2. Ann has a dog [Thursday 1 June 2023]",
        "Memories of Ben:",
        "3. Ben sold his bicycle",
        "Question [Thursday 1 June 2023]: Where does Ann live?",
    ]


def test_a_memory_systems_own_text_replaces_the_block_and_nothing_recalled_is_said() -> None:
    (_, user), numbered = answer_prompt("Where?", (ROME,), text="Ann: Rome, since May")
    assert (user["content"].splitlines(), numbered) == (["Ann: Rome, since May", "Question: Where?"], [7])
    (_, user), numbered = answer_prompt("Where?", ())
    assert (user["content"].splitlines(), numbered) == (["Memories: none", "Question: Where?"], [])


@given(ENTRIES)
def test_the_number_before_a_memory_is_the_one_that_stands_for_its_id(entries: list[MemoryEntry]) -> None:
    (_, user), numbered = answer_prompt("Where?", entries)
    assert sorted(numbered) == sorted(entry.entry_id for entry in entries)
    by_id = {entry.entry_id: entry for entry in entries}
    lines = user["content"].split("\n")
    block = None
    for line in lines:
        if header := re.fullmatch(r"Memories(?: of (\w+))?:", line):
            block = header[1] or ""
        elif numbered_line := re.match(r"(\d+)\. ", line):
            entry = by_id[numbered[int(numbered_line[1]) - 1]]
            assert line.startswith(f"{numbered_line[1]}. {entry.text}")
            assert entry.speaker == block
    assert sum(bool(re.match(r"\d+\. ", line)) for line in lines) == len(entries)


@given(
    st.lists(st.integers(1, 9), unique=True, max_size=5),
    WORDS.map(str.strip).filter(lambda answer: answer and ANSWER_MARKER not in answer),
)
def test_a_rendered_answer_is_read_back(numbers: list[int], answer: str) -> None:
    numbered = list(range(101, 110))
    completion = render_answer(answer, numbers)
    assert parse_answer(completion) == answer
    assert parse_distilled(completion, numbered) == tuple(100 + number for number in numbers)


@pytest.mark.parametrize(
    ("completion", "answer", "distilled"),
    [
        ("Memories: 2\n**Answer:** Rome", "Rome", (20,)),
        ("Memories: 3, 1, 3\n**Answer:**   Rome  \nBecause", "Rome", (30, 10)),
        ("Memories: none\n**Answer:** unknown", "unknown", ()),
        ("Memories: 0, 4, 2\n**Answer:** Rome", "Rome", (20,)),  # 0 and 4 were not shown
        ("Memories: 10002\n**Answer:** Rome", "Rome", ()),  # one number, not 1000 and 2
        ("Memories: 1\n**Answer:**\nRome", "Rome", (10,)),
        ("Memories: 1\n**Answer:** Oslo\n**Answer:** Rome 3", "Rome 3", (10,)),  # the last answer, the first list
        ("**Answer:** Rome\nMemories: 1", "Rome", ()),  # distilled after answering: too late
        ("Rome 2", "Rome 2", ()),
        ("Memories: 1\n**Answer:**", "", (10,)),
        ("**Answer:**", "", ()),
        ("", "", ()),
    ],
)
def test_what_is_made_of_a_completion(completion: str, answer: str, distilled: tuple[int, ...]) -> None:
    assert parse_answer(completion) == answer
    assert parse_distilled(completion, [10, 20, 30]) == distilled


@given(
    st.lists(st.sampled_from([ANSWER_MARKER, "Memories:", "\n", " 1", ", 2", "99999", "٣", "Rome", "\0"])).map("".join)
)
def test_garbage_is_read_without_a_failure(completion: str) -> None:
    answer = parse_answer(completion)
    assert answer in completion
    assert ANSWER_MARKER not in completion or "\n" not in answer
    distilled = parse_distilled(completion, [10, 20, 30])
    assert len(set(distilled)) == len(distilled)
    assert set(distilled) <= {10, 20, 30}


def test_quoted_memories_are_those_whose_words_stand_before_the_answer() -> None:
    completion = "Memories:\nann lives in rome\n**Answer:** Ben sold his bicycle"
    texts = [BIKE.text, ROME.text]
    assert parse_quoted(completion, (3, 7), texts) == (7,)
    assert parse_quoted("nothing", (3, 7), texts) == ()


@pytest.mark.parametrize("quotes", [[], ["Ann lives in Rome"], ["Ben sold his bicycle", "Ann lives in Rome"]])
def test_a_quoting_completion_is_read_back_as_it_was_rendered(quotes: list[str]) -> None:
    completion = render_quoted_answer("in Rome", quotes)
    texts = ["Ben sold his bicycle", "Ann lives in Rome", "Ann has a dog"]
    assert [texts[place] for place in parse_relied_on(completion, range(3), texts, "quotes")] == quotes
    assert parse_answer(completion) == "in Rome"
