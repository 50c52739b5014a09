"""Whole-session credit: rows of sessions, and groups that branch at one turn of a played dialogue."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from data.tuples import branch_points, session_tuples
from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.inference.language_model import Messages
from memory_r1.memory.bank import entries_from_json
from memory_r1.memory.retriever import Retriever
from memory_r1.metrics import exact_match
from memory_r1.training.frozen_answering import FrozenAnswering
from memory_r1.training.rows import Row, apply_completion
from memory_r1.training.session_credit import MAX_SESSION_MEMORIES, BranchRollout, Sample, branch_rows, session_rows
from memory_r1.types import BranchPoint, Dialogue, MemoryEntry, Question, Session, SessionTuple, Turn
from rewards.answers import one_by_one
from rewards.outcome import EntryCost, OutcomeReward, by_answer
from tests.fakes import FakeEmbedder, ScriptedLanguageModel

ADD = '[{"op": "ADD", "text": "Ann likes jazz"}]'
DELETE = '[{"op": "DELETE", "id": 1}]'
NOOP = '[{"op": "NOOP"}]'
COST = 0.01

# Ann gives up tea, and only later names what she likes now. The secret words occur only in questions and answers.
DRINK = Question("drink", "QUIZ: what does Ann like?", "Ann likes coffee", "update", ("d:2:3",))
HOME = Question("home", "QUIZ: who lives where?", "Ann lives in Rome", "recall", ("d:1:1",))
SECRET = Question("secret", "QUIZ: what is it?", "GOLDANSWER", "recall", ("d:2:2",))


def make_dialogue(*questions: Question, name: str = "d") -> Dialogue:
    said = (("lives in Rome", "likes tea"), ("hm", "gave up tea", "likes coffee", "has a dog"), ("is tired",))
    sessions = tuple(
        Session(
            f"s{s}", "", tuple(Turn(f"{name}:{s}:{t}", "Ann", text, f"s{s}") for t, text in enumerate(texts, start=1))
        )
        for s, texts in enumerate(said, start=1)
    )
    return Dialogue(name, ("Ann", "Ben"), sessions, questions)


def stubborn(prompt: Messages, adapter: str | None) -> str:
    """Play a greedy policy: add the turn unless a memory with the same first two words is shown; never revise."""
    shown = re.findall(r"^\d+\. (.*)$", prompt[-1]["content"], re.MULTILINE)
    said = re.search(r"^Last turn: (\w+): (.*)$", prompt[-1]["content"], re.MULTILINE)
    assert said is not None
    fact = " ".join(said.groups())
    known = any(text.split()[:2] == fact.split()[:2] for text in shown)
    return NOOP if known or said[2] == "hm" else json.dumps([{"op": "ADD", "text": fact}])


def repeats_what_is_liked(prompt: Messages, adapter: str | None) -> str:
    """Answer with the memory of what Ann likes, if there is one."""
    liked = re.findall(r"Ann likes \w+", prompt[-1]["content"])
    return f"Memories: 1\n**Answer:** {liked[0] if liked else 'unknown'}"


def outcome() -> OutcomeReward:
    agent = AnswerAgent(ScriptedLanguageModel(repeats_what_is_liked))
    return OutcomeReward(
        "answer", by_answer(FrozenAnswering(agent, Retriever(FakeEmbedder()), 8), one_by_one(exact_match))
    )


def rollout(*points: BranchPoint, seed: int = 0, retention_questions: int = 2) -> BranchRollout:
    return BranchRollout(
        points, Retriever(FakeEmbedder()), recall_per_speaker=4, retention_questions=retention_questions, seed=seed
    )


def manager(model: ScriptedLanguageModel) -> MemoryManager:
    return MemoryManager(model, Retriever(FakeEmbedder()), recall_per_speaker=4)


def sampling(*texts: str) -> tuple[Sample, list[list[Messages]]]:
    """Make a sampler of `texts` for any prompt, and a list of the prompts of every call."""
    asked: list[list[Messages]] = []

    def sample(prompts: list[Messages]) -> tuple[dict[str, Any], list[str]]:
        asked.append(prompts)
        return {"prompt_ids": [[1]] * len(texts), "completion_ids": [[2]] * len(texts), "logprobs": None}, list(texts)

    return sample, asked


def at_turn(dialogue: Dialogue, session: int, turn: int) -> BranchPoint:
    return next(point for point in branch_points(dialogue) if (point.session, point.turn) == (session, turn))


def pay(rows: Sequence[Row], *completions: str) -> list[float]:
    """Return the reward of each completion's bank: its answers' minus its entries' cost."""
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
    chats, answers = [[{"role": "assistant", "content": text}] for text in completions], outcome()
    earned = zip(answers(chats, **columns), EntryCost(COST, [answers])(chats, **columns), strict=True)
    return [(answer or 0.0) + (cost or 0.0) for answer, cost in earned]


def as_rows(output: dict[str, Any]) -> list[Row]:
    return [{key: values[row] for key, values in output.items() if values} for row in range(len(output["turn"]))]


def play(
    rolled: BranchRollout, dialogue: Dialogue, *texts: str, step: int = 0, model: ScriptedLanguageModel | None = None
) -> tuple[list[Row], list[list[Messages]]]:
    (row,) = branch_rows(branch_points(dialogue))
    sample, asked = sampling(*texts)
    played = manager(model or ScriptedLanguageModel(stubborn))
    return as_rows(rolled.roll_out([row["prompt"]] * len(texts), step, played, sample)), asked


class TestBranches:
    def test_an_operation_that_pays_only_at_the_end_of_the_session_is_paid(self) -> None:
        dialogue = make_dialogue(DRINK)
        rows, _ = play(rollout(at_turn(dialogue, 1, 1)), dialogue, DELETE, NOOP, ADD)
        assert rows[0]["bank"] == rows[1]["bank"]
        # The first memory shown is Ann's tea. As long as it exists, the policy does not add the coffee that follows.
        assert "1. Ann likes tea" in rows[0]["played_prompt"][-1]["content"]
        ends = [[entry.text for entry in entries_from_json(row["bank_at_end"])] for row in rows]
        assert ends == [
            ["Ann lives in Rome", "Ann likes coffee", "Ann has a dog"],
            ["Ann lives in Rome", "Ann likes tea", "Ann has a dog"],
            ["Ann lives in Rome", "Ann likes tea", "Ann likes jazz", "Ann has a dog"],
        ]
        assert pay(rows, DELETE, NOOP, ADD) == pytest.approx([1 - 3 * COST, -3 * COST, -4 * COST])
        # Right after the turn, only the entry that it saves distinguishes the DELETE from a NOOP.
        early = [{key: value for key, value in row.items() if key != "bank_at_end"} for row in rows]
        assert pay(early, DELETE, NOOP, ADD) == pytest.approx([-COST, -2 * COST, -3 * COST])

    def test_a_group_shares_bank_prompt_and_turn(self) -> None:
        dialogue = make_dialogue(DRINK, HOME)
        model = ScriptedLanguageModel(stubborn)
        rows, asked = play(rollout(*branch_points(dialogue)), dialogue, DELETE, NOOP, ADD, "what?", step=3, model=model)
        for column in ("tuple_id", "turn", "bank", "recalled_ids", "linked", "retention"):
            assert all(row[column] == rows[0][column] for row in rows), column
        assert asked == [[rows[0]["played_prompt"]] * 4]

    def test_all_dialogues_and_branches_are_played_in_one_batch_a_turn(self) -> None:
        first = make_dialogue(DRINK)
        second = make_dialogue(Question("late", "QUIZ: and?", "x", "recall", ("e:1:2",)), name="e")
        points = [at_turn(first, 1, 1), at_turn(second, 0, 1)]
        model = ScriptedLanguageModel(stubborn)
        sample, asked = sampling(DELETE, NOOP, NOOP, ADD)
        prompts = [row["prompt"] for row in branch_rows(points) for _ in range(2)]
        rows = as_rows(rollout(*points).roll_out(prompts, 0, manager(model), sample))
        # Before the branches: both dialogues' first turns, then two more of the first; after them: the two turns left
        # of the first one's session, for two states, and none of the second.
        assert [len(batch) for batch in model.batches] == [2, 1, 1, 2, 2]
        assert [row["tuple_id"] for row in rows] == ["d/d:2:2", "d/d:2:2", "e/e:1:2", "e/e:1:2"]
        assert asked[0][0] != asked[0][2]
        assert [len(entries_from_json(row["bank_at_end"])) for row in rows] == [3, 3, 1, 2]

    def test_equal_banks_are_played_on_once(self) -> None:
        dialogue = make_dialogue(DRINK)
        model = ScriptedLanguageModel(stubborn)
        rows, _ = play(rollout(at_turn(dialogue, 1, 1)), dialogue, NOOP, "[]", "what?", '[{"op": "NONE"}]', model=model)
        assert [len(batch) for batch in model.batches] == [1, 1, 1, 1, 1]
        assert len({row["bank_at_end"] for row in rows}) == 1

    @pytest.mark.parametrize("bad", ["", "I shall remember", '{"op": "NOOP"}', '[{"op": "ADD", "text": "x"}'])
    def test_an_unreadable_completion_leaves_the_bank_and_pays_less_than_a_noop(self, bad: str) -> None:
        liking = Question("tea", "QUIZ: tea?", "Ann likes tea", "recall", ("d:2:4",))
        dialogue = make_dialogue(HOME, liking)
        rows, _ = play(rollout(at_turn(dialogue, 1, 1)), dialogue, bad, NOOP)
        assert rows[0]["bank_at_end"] == rows[1]["bank_at_end"]
        failed, noop = pay(rows, bad, NOOP)
        assert failed == pytest.approx(-3 * COST)
        # The linked question is answered, the retention question about Rome is not.
        assert noop == pytest.approx(0.5 - 3 * COST)

    def test_only_what_the_bank_at_the_branch_holds_is_retained(self) -> None:
        unknown = Question("unknown", "QUIZ: mood?", "x", "recall", ("d:2:1",))  # no policy stores "hm"
        dialogue = make_dialogue(HOME, unknown, DRINK)
        point = at_turn(dialogue, 1, 1)
        assert [question.question_id for question in point.earlier] == ["home", "unknown"]
        rows, _ = play(rollout(point), dialogue, NOOP)
        assert [item["question_id"] for item in json.loads(rows[0]["retention"])] == ["home"]
        assert [item["question_id"] for item in json.loads(rows[0]["linked"])] == ["drink"]
        rows, _ = play(rollout(point, retention_questions=0), dialogue, NOOP)
        assert json.loads(rows[0]["retention"]) == []

    def test_neither_question_nor_gold_answer_reaches_a_manager_prompt(self) -> None:
        dialogue = make_dialogue(DRINK, HOME, SECRET)
        for step in range(8):
            model = ScriptedLanguageModel(stubborn)
            rows, asked = play(rollout(*branch_points(dialogue)), dialogue, DELETE, NOOP, step=step, model=model)
            read = json.dumps([model.prompts, asked, [row["played_prompt"] for row in rows]])
            assert "QUIZ" not in read
            assert "GOLDANSWER" not in read

    def test_the_turn_is_drawn_from_seed_step_and_dialogue(self) -> None:
        points = [point for name in ("d", "e") for point in branch_points(_asked_everywhere(name))]

        def drawn(dialogue_id: str, seed: int = 0) -> list[tuple[int, int]]:
            rolled = rollout(*points, seed=seed)
            found = [rolled.draw(dialogue_id, step) for step in range(40)]
            assert {point.dialogue.dialogue_id for point in found} == {dialogue_id}
            return [(point.session, point.turn) for point in found]

        assert drawn("d") == drawn("d")
        assert set(drawn("d")) == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)}  # every turn has its day
        assert drawn("d") != drawn("d", seed=1)
        assert drawn("d") != drawn("e")

    def test_the_last_turn_of_a_session_is_credited_with_the_bank_it_leaves(self) -> None:
        dialogue = make_dialogue(Question("dog", "QUIZ?", "x", "recall", ("d:2:4",)))
        model = ScriptedLanguageModel(stubborn)
        rows, _ = play(rollout(at_turn(dialogue, 1, 3)), dialogue, ADD, model=model)
        assert len(model.batches) == 5  # the turns before it and none after it, though a session follows
        _, after = apply_completion(ADD, rows[0]["turn"], rows[0]["bank"], rows[0]["recalled_ids"])
        assert entries_from_json(rows[0]["bank_at_end"]) == after.entries()

    def test_the_dataset_has_one_row_a_dialogue(self) -> None:
        points = [point for name in ("d", "e") for point in branch_points(_asked_everywhere(name))]
        assert [row["tuple_id"] for row in branch_rows(points)] == ["d", "e"]


def _asked_everywhere(name: str) -> Dialogue:
    bare = make_dialogue(name=name)
    asked = (Question(f"q{turn.turn_id}", "QUIZ", "x", "recall", (turn.turn_id,)) for turn in bare.turns())
    return make_dialogue(*asked, name=name)


ROME = MemoryEntry(4, "Ann lives in Rome", "Ann", "", ("d:1:1",))
TEA = MemoryEntry(7, "Ann likes tea", "Ann", "", ("d:1:2",))


def session_row(*questions: Question) -> Row:
    dialogue = make_dialogue(*questions)
    banks = {turn.turn_id: (ROME, TEA) for turn in dialogue.turns()}
    items = session_tuples(dialogue, banks)
    return session_rows([item for item in items if item.session.session_id == "s2"], Retriever(FakeEmbedder()), 4)[0]


def operations(*items: dict[str, object]) -> str:
    return json.dumps(items)


class TestSessions:
    def test_the_prompt_shows_the_sessions_turns_and_what_they_recall_but_no_question(self) -> None:
        row = session_row(DRINK, HOME, SECRET)
        lines = row["prompt"][-1]["content"].splitlines()
        assert lines[0] == "Memories:"
        assert set(lines[1:3]) == {f"{n}. {e.text}" for n, e in zip((1, 2), shown(row), strict=True)}
        assert lines[3:] == [
            "Session:",
            "Turn 1: Ann: hm",
            "Turn 2: Ann: gave up tea",
            "Turn 3: Ann: likes coffee",
            "Turn 4: Ann: has a dog",
        ]
        assert "QUIZ" not in json.dumps(row["prompt"])
        assert "GOLDANSWER" not in json.dumps(row["prompt"])

    def test_every_operation_is_applied_as_of_its_turn_and_the_bank_after_the_session_is_asked(self) -> None:
        row = session_row(DRINK)
        tea = row["recalled_ids"].index(TEA.entry_id) + 1
        good = operations({"op": "DELETE", "turn": 2, "id": tea}, {"op": "ADD", "turn": 3, "text": "Ann likes coffee"})
        checked, after = apply_completion(good, row["turn"], row["bank"], row["recalled_ids"])
        assert [item.turn for item in checked.operations] == [1, 2]
        assert [entry.source_turn_ids for entry in after.entries()] == [("d:1:1",), ("d:2:3",)]
        assert pay([row] * 3, good, NOOP, "no array") == pytest.approx([1 - 2 * COST, -2 * COST, -2 * COST])

    def test_the_memories_that_more_turns_recall_come_first_and_are_bounded(self) -> None:
        bank = tuple(MemoryEntry(number, f"w{number}", "Ann", "") for number in range(1, 100))
        turns = tuple(Turn(f"t{n}", "Ann", f"w{n} w70", "s") for n in range(1, 64))  # recalls w1 to w63, and w70
        item = SessionTuple("d/s", "d", Session("s", "", turns), ("Ann",), bank, (DRINK,), ())
        (row,) = session_rows([item], Retriever(FakeEmbedder()), 4)
        assert len(row["recalled_ids"]) == len(set(row["recalled_ids"])) == MAX_SESSION_MEMORIES
        assert row["recalled_ids"][0] == 70


def shown(row: Row) -> list[MemoryEntry]:
    by_id = {entry.entry_id: entry for entry in entries_from_json(row["bank"])}
    return [by_id[number] for number in row["recalled_ids"]]
