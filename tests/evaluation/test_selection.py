from __future__ import annotations

import random
from collections import Counter

import pytest

from memory_r1.errors import ConfigurationError
from memory_r1.evaluation.selection import batches, select
from memory_r1.types import Dialogue, Question, Session, Turn


def dialogue(dialogue_id: str, questions: list[Question]) -> Dialogue:
    sessions = tuple(
        Session(f"s{number}", "", (Turn(f"D{number}:1", "Ann", "x"), Turn(f"D{number}:2", "Ben", "y")))
        for number in (1, 2, 3)
    )
    return Dialogue(dialogue_id, ("Ann", "Ben"), sessions, tuple(questions))


def question(number: int, *evidence: str, category: str = "1") -> Question:
    return Question(f"q{number}", "?", "!", category, evidence)


ASKED = dialogue(
    "d",
    [question(1, "D1:1"), question(2, "D1:2", "D2:1"), question(3, "D1:1", "D3:2"), question(4, "D3:1"), question(5)],
)


def ids(dialogues: list[Dialogue]) -> list[str]:
    return [question.question_id for each in dialogues for question in each.questions]


@pytest.mark.parametrize(
    ("sessions", "turns", "questions"),
    [
        (1, 2, ["q1"]),
        (2, 4, ["q1", "q2"]),
        # That q5 has no answer is known only after everything is played.
        (3, 6, ["q1", "q2", "q3", "q4", "q5"]),
        (9, 6, ["q1", "q2", "q3", "q4", "q5"]),
        (None, 6, ["q1", "q2", "q3", "q4", "q5"]),
    ],
)
def test_only_what_the_sessions_played_can_answer_is_asked(
    sessions: int | None, turns: int, questions: list[str]
) -> None:
    (cut,) = select([ASKED], sessions=sessions)
    assert (len(cut.turns()), ids([cut])) == (turns, questions)


@pytest.mark.parametrize("option", ["sessions", "limit"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_number_below_one_is_refused(option: str, value: int) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} is {value}"):
        select([ASKED], **{option: value})


def many() -> list[Dialogue]:
    return [
        dialogue(name, [question(i, "D1:1", category="a" if i < 60 else "b") for i in range(80)]) for name in ("d", "e")
    ]


def test_a_limit_draws_from_every_dialogue_and_category_in_proportion() -> None:
    chosen = select(many(), limit=16)
    drawn = Counter((each.dialogue_id, asked.category) for each in chosen for asked in each.questions)
    # 16 of 160 is a tenth: six of 60, two of 20.
    assert drawn == {("d", "a"): 6, ("d", "b"): 2, ("e", "a"): 6, ("e", "b"): 2}


def test_a_limit_keeps_the_proportion_of_categories_where_every_question_has_a_dialogue_of_its_own() -> None:
    # LongMemEval: 60 of one type and 20 of another, each its own dialogue; a tenth of them is 6 and 2.
    dialogues = [dialogue(f"d{i}", [question(i, "D1:1", category="a" if i < 60 else "b")]) for i in range(80)]
    chosen = [select(dialogues, limit=8, seed=seed) for seed in range(5)]
    assert [Counter(each.questions[0].category for each in of_seed) for of_seed in chosen] == [{"a": 6, "b": 2}] * 5
    # Not the first of each, since the draw depends on the seed.
    assert len({frozenset(each.dialogue_id for each in of_seed) for of_seed in chosen}) == 5


def test_a_limit_spreads_a_small_category_over_dialogues() -> None:
    # Four dialogues with 2 of "a" and 1 of "b" each: of 6 questions, 4 are "a", one from each dialogue.
    dialogues = [
        dialogue(f"d{i}", [question(j, "D1:1", category="b" if j == 2 else "a") for j in range(3)]) for i in range(4)
    ]
    drawn = Counter((q.category, each.dialogue_id) for each in select(dialogues, limit=6) for q in each.questions)
    assert [drawn["a", f"d{i}"] for i in range(4)] == [1, 1, 1, 1]
    assert sum(count for (category, _), count in drawn.items() if category == "b") == 2


def test_a_limit_draws_the_same_from_the_same_questions_and_more_contains_less() -> None:
    shuffled = [
        dialogue(each.dialogue_id, random.Random(1).sample(each.questions, len(each.questions))) for each in many()
    ]

    def drawn(dialogues: list[Dialogue], limit: int, seed: int = 0) -> set[tuple[str, str]]:
        chosen = select(dialogues, limit=limit, seed=seed)
        return {(each.dialogue_id, asked.question_id) for each in chosen for asked in each.questions}

    assert drawn(many(), 16) == drawn(shuffled, 16)
    assert drawn(many(), 16) < drawn(many(), 40)
    assert drawn(many(), 16) != drawn(many(), 16, seed=1)
    assert len(drawn(many(), 1000)) == 160


def test_a_limit_keeps_the_order_of_questions_and_leaves_out_dialogues_without_any() -> None:
    numbers = [int(name[1:]) for name in ids(select([many()[0]], limit=16))]
    assert numbers == sorted(numbers)
    assert [each.dialogue_id for each in select([dialogue("empty", []), ASKED], limit=2)] == ["d"]
    assert [each.dialogue_id for each in select([dialogue("empty", []), ASKED])] == ["empty", "d"]


def test_batches_cover_everything_once() -> None:
    assert [list(batch) for batch in batches(5, 2)] == [[0, 1], [2, 3], [4]]
    assert batches(0, 2) == []
