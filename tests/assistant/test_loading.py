"""Agents of a `Memory` come from adapter folders, with their training's settings, here or behind a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memory_r1 import Memory
from memory_r1.assistant.loading import load_agents
from memory_r1.errors import ConfigurationError, EndpointError, ModelError
from memory_r1.jsonl import write_json
from memory_r1.training.runs import base_model_record
from tests.assistant.memories import texts
from tests.chat_server import Answer, ChatServer, reply
from tests.tiny import embedder_folder, load_tokenizer, write_adapter

OF_MANAGER = {"recall_per_speaker": 3, "max_new_tokens": 7, "dtype": "float32", "embedder": embedder_folder()}
OF_ANSWER = {**OF_MANAGER, "recall_per_speaker": 4, "max_new_tokens": 9, "answer_style": "quotes"}


def summarise(folder: Path, base: Path, settings: dict[str, Any]) -> None:
    """Write the summary of a training on the model in `base`."""
    summary = {"settings": settings, "base_model": base_model_record(str(base), str(base))}
    write_json(folder / "training_summary.json", summary)


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of two random adapters, as a training leaves them."""
    written = {}
    for seed, (agent, settings) in enumerate({"manager": OF_MANAGER, "answer": OF_ANSWER}.items()):
        written[agent] = write_adapter(tiny_model, tmp_path_factory.mktemp("runs") / agent, seed)
        load_tokenizer(tiny_model).save_pretrained(written[agent])
        summarise(written[agent], tiny_model, settings)
    return written


def test_settings_come_from_the_adapters(folders: dict[str, Path], tiny_model: Path) -> None:
    agents = load_agents(**folders, model=str(tiny_model))
    assert (agents.recall_per_speaker, agents.answer.max_new_tokens, agents.answer.style) == (4, 9, "quotes")
    assert (agents.manager.recall_per_speaker, agents.manager.max_new_tokens) == (3, 7)
    assert (agents.manager.adapter, agents.answer.adapter) == ("manager", "answer")
    with Memory(":memory:", agents=agents) as memory:
        memory.add("Ann moved to Lisbon", user_id="ann", infer=False)
        assert memory.add("I like tea", user_id="ann")["results"] == []  # a random model writes no operations
        assert memory.answer("Where does Ann live?", user_id="ann")["recalled"]


def test_an_untrained_manager_reads_worked_turns_and_is_held_to_the_format(
    folders: dict[str, Path], tiny_model: Path
) -> None:
    agents = load_agents("base", folders["answer"], str(tiny_model))
    assert agents.manager.adapter is None and agents.manager.examples and agents.manager.constrained


def test_adapters_that_disagree_are_refused(folders: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    other = write_adapter(tiny_model, tmp_path / "answer", 3)
    summarise(other, tiny_model, {**OF_ANSWER, "dtype": "bfloat16"})
    with pytest.raises(ConfigurationError, match="trained with dtype"):
        load_agents(folders["manager"], other, str(tiny_model))
    with pytest.raises(ModelError):
        load_agents(tmp_path / "missing", folders["answer"], str(tiny_model))


def test_a_server_serves_the_adapters_by_their_agents_names(folders: dict[str, Path]) -> None:
    def served(body: dict[str, Any], headers: dict[str, str]) -> Answer:
        if "Question" in body["messages"][-1]["content"]:
            return reply(f"Memories: Ann lives in Oslo\n**Answer:** Oslo, says {body['model']}")
        return reply('[{"op": "ADD", "text": "Ann lives in Oslo"}]')

    with ChatServer(served) as server:
        with Memory.from_adapters(**folders, model=server.url, store=":memory:") as memory:
            memory.add("I moved to Oslo", user_id="ann")
            answer = memory.answer("Where does Ann live?", user_id="ann")
        assert (answer["answer"], len(answer["relied_on"])) == ("Oslo, says answer", 1)
        assert [(body["model"], body["max_tokens"]) for body, _ in server.requests] == [("manager", 7), ("answer", 9)]


def test_an_add_that_a_server_refuses_stores_nothing(folders: dict[str, Path]) -> None:
    with ChatServer(lambda body, headers: (400, {"error": "no"})) as server:
        memory = Memory.from_adapters(**folders, model=server.url, store=":memory:")
        with pytest.raises(EndpointError, match="HTTP 400"):
            memory.add("I moved to Oslo", user_id="ann")
    assert texts(memory, "ann") == []
