"""Recalled memories fit the model's window; the rest is cut by the system's own rule, and counted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.errors import ConfigurationError, PromptTooLongError
from memory_r1.evaluation.asking import Asked, questions_of
from memory_r1.systems.baselines import FullContext
from memory_r1.systems.window import recall_within
from memory_r1.types import MemoryEntry, Recall
from tests.fakes import ScriptedLanguageModel
from tests.small_runs import RUN, build, dialogues, rows, run_it


def bare_prompt(model: ScriptedLanguageModel, agent: AnswerAgent, asked: Asked) -> int:
    """Return the tokens of the question's prompt without memories plus its longest answer."""
    room = AnswerAgent(model, max_new_tokens=agent.max_new_tokens).room(asked.request(Recall(())))
    assert room is not None and model.window is not None
    return model.window - room


def longest_prompt(model: ScriptedLanguageModel) -> int:
    """Return the most tokens that a prompt of the small run needs."""
    run = AnswerAgent(model)
    return max(bare_prompt(model, run, asked) for asked in questions_of(dialogues(), run, None))


def test_a_budget_is_what_prompt_and_answer_leave_of_the_window() -> None:
    model = ScriptedLanguageModel(window=1000)
    agent = AnswerAgent(model, max_new_tokens=40)
    (first, *_) = questions_of(dialogues(), agent, None)
    # The instructions, "Memories: none" and "Question: Where does Ann lives in?".
    instructions = len(" ".join(part["content"] for part in agent.prompt(first.request(Recall(())))[0]).split())
    assert first.budget_tokens == 1000 - 40 - instructions
    assert {asked.budget_tokens for asked in questions_of(dialogues(), agent, 7)} == {7}
    assert questions_of(dialogues(), agent, 5000)[0].budget_tokens == first.budget_tokens
    untold = AnswerAgent(ScriptedLanguageModel())
    assert {asked.budget_tokens for asked in questions_of(dialogues(), untold, None)} == {None}


def test_a_window_without_room_for_memories_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = ScriptedLanguageModel(window=1000)
    needed = longest_prompt(model)
    model.window = needed
    with pytest.raises(ConfigurationError, match=r"leave no room for memories in the model's window \(1 tokens too"):
        run_it(tmp_path / "run", model)
    assert (model.prompts, (tmp_path / "run").exists()) == ([], False)


@pytest.mark.parametrize("room", [*range(1, 40, 4), 80])
def test_no_prompt_exceeds_the_window_and_the_oldest_turns_go_first(room: int, tmp_path: Path) -> None:
    model = ScriptedLanguageModel(window=1000)
    model.window = longest_prompt(model) + room  # the fake refuses longer prompts
    run = dataclasses.replace(RUN, system="full-context")
    results = run_it(tmp_path, model, build("full-context", model), run=run)
    whole = {"a": ["D1:1", "D1:2", "D1:3", "D2:1", "D2:2", "D2:3"], "c": ["D1:1", "D2:1"]}
    for row in rows(tmp_path, "predictions"):
        shown = [entry["source_turn_ids"][0] for entry in row["recalled"]]
        assert shown == whole[row["dialogue_id"]][row["cut"] :]
    cut = sum(row["cut"] for row in rows(tmp_path, "predictions"))
    assert json.loads((tmp_path / "run.json").read_text())["cost"]["cut_entries"] == cut
    assert (cut > 0) is (room < 80)
    assert (results["config"]["window_tokens"], results["config"]["cut_rule"]) == (model.window, "oldest first")


def test_as_much_is_shown_as_fits() -> None:
    """The budget counts entries; each speaker's heading is measured and costs no more than that."""
    model = ScriptedLanguageModel(window=1000)
    agent, system = AnswerAgent(model), FullContext(count_tokens=model.count_tokens)
    (dialogue, _) = dialogues()
    for turn in dialogue.turns():
        system.observe(turn, dialogue.dialogue_id)
    (question,) = questions_of([dataclasses.replace(dialogue, questions=dialogue.questions[:1])], agent, None)
    (everything,) = recall_within(system, agent, [question.query])
    assert len(everything.items) == 6
    left = agent.room(question.request(everything))
    assert left is not None
    model.window = 1000 - left
    asked = questions_of([question.dialogue], agent, None)[:1]
    assert recall_within(system, agent, [item.query for item in asked]) == [everything]
    model.window -= 1
    asked = questions_of([question.dialogue], agent, None)[:1]
    (recall,) = recall_within(system, agent, [item.query for item in asked])
    assert (recall.items, recall.usage["cut"]) == (everything.items[1:], 1)


class Stubborn(FullContext):
    """Ignores the budget when it recalls."""

    name = "stubborn"

    def recall_many(self, requests: Any) -> list[Recall]:
        return [Recall((MemoryEntry(1, "word " * 2000, "Ann", ""),)) for _ in requests]


def test_a_system_that_ignores_its_budget_never_reaches_the_model() -> None:
    agent = AnswerAgent(ScriptedLanguageModel(window=1000))
    asked = questions_of(dialogues(), agent, None)[:1]
    with pytest.raises(PromptTooLongError, match="memory system 'stubborn' recalls more for 'a/q1' than its budget"):
        recall_within(Stubborn(), agent, [item.query for item in asked])
