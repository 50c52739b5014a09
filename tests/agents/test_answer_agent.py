"""The Answer Agent turns a question and a recall into an answer and the entries it relies on."""

from __future__ import annotations

import re
from typing import Any

import pytest

from memory_r1.agents.answer_agent import AnswerAgent, AnswerRequest
from memory_r1.errors import ConfigurationError, PromptTooLongError
from memory_r1.inference.language_model import Completion, Messages
from memory_r1.types import Answer, MemoryEntry, Recall
from tests.fakes import ScriptedLanguageModel

ROME = MemoryEntry(7, "Ann lives in Rome", "Ann", "2023-05-08T13:56:00")
BIKE = MemoryEntry(3, "Ben sold his bicycle", "Ben", "")
DOG = MemoryEntry(12, "Ann has a dog", "Ann", "")


def name_the_bicycle(prompt: Messages, adapter: str | None) -> str:
    """Relies on the memory with "bicycle" in it, by its number in the prompt, and repeats the question."""
    text = prompt[-1]["content"]
    number = re.search(r"^(\d+)\. .*bicycle", text, re.MULTILINE)
    return f"Memories: {number[1] if number else 'none'}\n**Answer:** {text.splitlines()[-1]}"


def test_distilled_entries_are_entry_ids_whatever_the_order_of_the_blocks() -> None:
    agent = AnswerAgent(ScriptedLanguageModel(name_the_bicycle))
    # In the first prompt the bicycle is memory 3 (after both of Ann's), in the second memory 1.
    answers = agent.answer(
        [AnswerRequest("What?", Recall((ROME, BIKE, DOG))), AnswerRequest("What?", Recall((BIKE, ROME, DOG)))]
    )
    assert [answer.distilled for answer in answers] == [(3,), (3,)]
    assert [answer.completion.splitlines()[0] for answer in answers] == ["Memories: 3", "Memories: 1"]


def test_identical_prompts_are_answered_once_and_answers_keep_their_order() -> None:
    model = ScriptedLanguageModel(name_the_bicycle)
    requests = [
        AnswerRequest("Where?", Recall((ROME,))),
        AnswerRequest("What?", Recall((BIKE,))),
        AnswerRequest("Where?", Recall((ROME,))),
        AnswerRequest("Where?", Recall((ROME,)), asked_at="2023-05-09T00:00:00"),
        AnswerRequest("Where?", Recall((ROME, BIKE))),
    ]
    answers = AnswerAgent(model).answer(requests)
    assert [len(batch) for batch in model.batches] == [4]  # the third repeats the first
    assert [answer.text for answer in answers] == [
        "Question: Where?",
        "Question: What?",
        "Question: Where?",
        "Question [Tuesday 9 May 2023]: Where?",
        "Question: Where?",
    ]
    assert [answer.distilled for answer in answers] == [(), (3,), (), (), (3,)]


def test_one_prompt_over_entries_of_other_ids_keeps_the_ids_apart() -> None:
    model = ScriptedLanguageModel(name_the_bicycle)
    twin = MemoryEntry(99, BIKE.text, BIKE.speaker, BIKE.timestamp)
    answers = AnswerAgent(model).answer([AnswerRequest("What?", Recall((entry,))) for entry in (BIKE, twin)])
    assert len(model.prompts) == 1
    assert [answer.distilled for answer in answers] == [(3,), (99,)]


def test_the_adapter_and_what_the_completion_cost_are_passed_on() -> None:
    adapters: list[str | None] = []

    def note(prompt: Messages, adapter: str | None) -> str:
        adapters.append(adapter)
        return "Memories: none\n**Answer:** unknown"

    (answer,) = AnswerAgent(ScriptedLanguageModel(note), adapter="answer").answer([AnswerRequest("What?", Recall(()))])
    assert adapters == ["answer"]
    assert (answer.text, answer.distilled, answer.completion_tokens) == ("unknown", (), 4)  # the fake counts words
    assert answer.prompt_tokens > 4


@pytest.mark.parametrize("completion", ["", "Rome", "Memories: 5\n**Answer:**", "**Answer:** Memories: 1", "\0 1 2"])
def test_garbage_is_an_answer_that_relies_on_nothing(completion: str) -> None:
    agent = AnswerAgent(ScriptedLanguageModel(lambda prompt, adapter: completion))
    (answer,) = agent.answer([AnswerRequest("What?", Recall((ROME,)))])
    assert (answer.distilled, answer.completion) == ((), completion)


def test_quoting_is_a_style_of_its_own_and_others_are_refused() -> None:
    quoting = ScriptedLanguageModel(lambda prompt, adapter: "Memories:\nann has a DOG\n**Answer:** a dog")
    (answer,) = AnswerAgent(quoting, style="quotes").answer([AnswerRequest("What?", Recall((ROME, DOG)))])
    assert (answer.text, answer.distilled) == ("a dog", (12,))
    with pytest.raises(ConfigurationError, match="answer style 'poem' is unknown; allowed: ids, quotes"):
        AnswerAgent(quoting, style="poem")


def test_a_prompt_that_does_not_fit_is_not_completed_and_the_others_are() -> None:
    model = ScriptedLanguageModel(name_the_bicycle, window=200)
    agent = AnswerAgent(model, max_new_tokens=32)
    long = AnswerRequest("What?", Recall((MemoryEntry(1, "word " * 200, "Ann", ""),)))
    short = AnswerRequest("What?", Recall((BIKE,)))
    room = agent.room(short)
    assert room == 200 - 32 - model.prompt_tokens(agent.prompt(short)[0])
    too_much = agent.room(long)
    assert too_much is not None and too_much < 0
    first, error, last = agent.try_answer([short, long, short])
    assert isinstance(error, PromptTooLongError)
    assert isinstance(first, Answer) and first == last
    assert first.distilled == (3,)
    with pytest.raises(PromptTooLongError):
        agent.answer([short, long])
    assert AnswerAgent(ScriptedLanguageModel()).room(long) is None


def test_a_window_is_filled_to_its_last_token() -> None:
    model = ScriptedLanguageModel(name_the_bicycle, window=1000)
    agent, request = AnswerAgent(model), AnswerRequest("What?", Recall((BIKE,)))
    model.window -= agent.room(request) or 0  # type: ignore[operator]
    assert agent.room(request) == 0
    long = AnswerRequest("What?", Recall((MemoryEntry(1, "word " * 2000, "Ann", ""),)))
    answer, error = agent.try_answer([request, long])
    assert isinstance(answer, Answer) and answer.distilled == (3,)
    assert isinstance(error, PromptTooLongError)
    model.window -= 1
    with pytest.raises(PromptTooLongError):
        agent.answer([request])


def test_no_request_is_no_answer() -> None:
    assert AnswerAgent(ScriptedLanguageModel()).answer([]) == []


def test_a_likelihood_past_the_window_is_none() -> None:
    class Scoring(ScriptedLanguageModel):
        def likelihood(self, prompts: Any, heads: Any, texts: Any, *, adapter: str | None = None) -> list[float]:
            return [0.5 for _ in prompts]

    entry = MemoryEntry(1, "Ann lives in Rome", "Ann", "")
    requests = [AnswerRequest("Where?", Recall((entry,))), AnswerRequest("Where? " * 200, Recall((entry,)))]
    assert AnswerAgent(Scoring(window=200)).likelihood(requests, ["Rome", "Rome"]) == [0.5, None]


class ReadsLatents(ScriptedLanguageModel):
    """Answers with the number of memory tokens that a prompt comes with."""

    def generate_with_latents(
        self, prompts: Any, latents: Any, *, max_new_tokens: int, adapter: str | None = None
    ) -> list[Completion]:
        self.batches.append([prompt[-1]["content"] for prompt in prompts])
        return [Completion(f"Memories: 1\n**Answer:** {b''.join(each).decode()}", 9, 3) for each in latents]


def test_memory_tokens_reach_the_model_and_tell_equal_prompts_apart() -> None:
    model = ReadsLatents()
    latents = [(b"a", b"b"), (b"c",), (b"a", b"b"), ()]
    requests = [AnswerRequest("Where?", Recall((), text="1. <memory tokens>", latents=each)) for each in latents]
    assert [answer.text for answer in AnswerAgent(model).answer(requests)] == ["ab", "c", "ab", ""]
    assert [len(batch) for batch in model.batches] == [3]


def test_memory_tokens_take_room_in_the_window() -> None:
    agent = AnswerAgent(ReadsLatents(window=100), max_new_tokens=5)
    rooms = [agent.room(AnswerRequest("Where?", Recall((), text="1.", latents=(b"a",) * n))) for n in (0, 10)]
    assert rooms[0] is not None and rooms[1] == rooms[0] - 10


def test_memory_tokens_for_a_model_that_takes_only_text_are_refused() -> None:
    request = AnswerRequest("Where?", Recall((), text="1. <memory tokens>", latents=(b"a",)))
    with pytest.raises(ConfigurationError, match="memory tokens need a local Answer Agent"):
        AnswerAgent(ScriptedLanguageModel()).answer([request])
