"""The Answer Agent behind a chat server: its requests and its outages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memory_r1.agents.answer_agent import AnswerAgent, AnswerRequest
from memory_r1.errors import EndpointError
from memory_r1.inference.endpoint import Endpoint
from memory_r1.inference.language_model import Completion, FallibleLanguageModel
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.inference.server_model import ServerLanguageModel
from memory_r1.memory.retriever import Retriever
from memory_r1.training.frozen_answering import BankQuestion, FrozenAnswering
from memory_r1.types import MemoryEntry, Question, Recall
from tests.chat_server import ChatServer, reply
from tests.fakes import FakeEmbedder, ScriptedLanguageModel
from tests.tiny import load_base, load_tokenizer, messages, sharpen

WHERE = Question("q1", "Where does Ann live?", "Rome", "recall", ("t1",))
DRINK = Question("q2", "What does Ben like?", "tea", "recall", ("t2",))
BANK = (MemoryEntry(1, "Ann lives in Rome", "Ann", "", ("t1",)), MemoryEntry(2, "Ben likes tea", "Ben", "", ("t2",)))


def served(server: ChatServer, tokenizer: Any = None, **options: Any) -> ServerLanguageModel:
    return ServerLanguageModel(Endpoint(server.url, "base", retries=1, **options), tokenizer)


def asks_of_ben(body: dict[str, Any]) -> bool:
    return "does Ben like" in body["messages"][-1]["content"]


def test_it_says_what_the_local_model_says(tiny_model: Path) -> None:
    local = LocalLanguageModel(sharpen(load_base(tiny_model)), load_tokenizer(tiny_model))

    def answer(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        assert body["temperature"] == 0.0
        (completion,) = local.generate([body["messages"]], max_new_tokens=body["max_tokens"])
        return reply(f" {completion.text}\n", completion.prompt_tokens, completion.completion_tokens)

    prompts = messages(["Where?", "Who is it?", "When did Ann move?"])
    with ChatServer(answer) as server:
        remote = served(server, load_tokenizer(tiny_model), concurrency=1)
        assert remote.generate(prompts, max_new_tokens=6) == local.generate(prompts, max_new_tokens=6)
        assert remote.count_tokens("Ann lives in Rome") == local.count_tokens("Ann lives in Rome") > 1


def test_an_adapter_is_a_model_of_that_name_and_the_servers_own_sampling_is_off() -> None:
    with ChatServer(lambda body, headers: reply("x")) as server:
        model = served(server)
        model.generate(messages(["a"]), max_new_tokens=5)
        model.generate(messages(["a"]), max_new_tokens=5, adapter="answer", temperature=0.7, seed=3)
    bodies = [body for body, _ in server.requests]
    assert [body["model"] for body in bodies] == ["base", "answer"]
    assert [(body["temperature"], body.get("seed")) for body in bodies] == [(0.0, None), (0.7, 3)]
    assert all((body["top_p"], body["top_k"], body["repetition_penalty"]) == (1.0, -1, 1.0) for body in bodies)


def test_only_role_and_content_are_sent() -> None:
    with ChatServer(lambda body, headers: reply("x")) as server:
        served(server).generate([[{"role": "user", "content": "a", "episode": "7"}]], max_new_tokens=5)
    assert server.requests[0][0]["messages"] == [{"role": "user", "content": "a"}]


def test_a_failed_prompt_fails_the_call_or_stands_in_its_place() -> None:
    picky = ChatServer(lambda body, headers: (500, {}) if asks_of_ben(body) else reply("fine", 3, 1))
    prompts = messages(["Where does Ann live?", "What does Ben like?"])
    with picky as server:
        model = served(server)
        first, second = model.try_generate(prompts, max_new_tokens=5)
        assert first == Completion("fine", 3, 1)
        assert isinstance(second, EndpointError)
        with pytest.raises(EndpointError, match="HTTP 500"):
            model.generate(prompts, max_new_tokens=5)


def test_only_a_model_behind_a_server_is_asked_to_fail_piecewise(tiny_model: Path) -> None:
    assert isinstance(ServerLanguageModel(Endpoint("http://127.0.0.1:1/v1", "m"), None), FallibleLanguageModel)
    assert not isinstance(LocalLanguageModel(None, None), FallibleLanguageModel)
    assert not isinstance(ScriptedLanguageModel(), FallibleLanguageModel)


def test_an_evaluation_stops_where_training_loses_an_answer() -> None:
    requests = [AnswerRequest(item.question, Recall(BANK)) for item in (WHERE, DRINK)]
    with ChatServer(lambda body, headers: (500, {}) if asks_of_ben(body) else reply("**Answer:** Rome")) as server:
        agent = AnswerAgent(served(server))
        first, second = agent.try_answer(requests)
        assert not isinstance(first, EndpointError) and first.text == "Rome"
        assert isinstance(second, EndpointError)
        with pytest.raises(EndpointError):
            agent.answer(requests)


def test_a_question_that_was_not_answered_is_asked_anew(caplog: pytest.LogCaptureFixture) -> None:
    down = True

    def answer(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        if asks_of_ben(body):
            return (503, {}) if down else reply("**Answer:** tea")
        return reply("**Answer:** Rome")

    batch = [BankQuestion(question, BANK, ("Ann", "Ben")) for question in (WHERE, DRINK, DRINK)]
    with ChatServer(answer) as server:
        frozen = FrozenAnswering(AnswerAgent(served(server)), Retriever(FakeEmbedder()), recall_per_speaker=1)
        texts = [item and item.text for item in frozen.answer(batch)]
        assert texts == ["Rome", None, None]
        assert "1 of 2 questions were not answered" in caplog.text
        assert (frozen.requested, frozen.generated) == (3, 1)
        down = False
        asked_before = len(server.requests)
        assert [item and item.text for item in frozen.answer(batch)] == ["Rome", "tea", "tea"]
        assert len(server.requests) == asked_before + 1  # Rome is remembered
