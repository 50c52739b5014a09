"""mem0's own quick start runs with only the import and the constructor changed, and gets mem0's shapes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from memory_r1 import AsyncMemory
from memory_r1.inference.language_model import Messages
from tests.assistant.memories import scripted_memory
from tests.fakes import ScriptedLanguageModel, keeping_script


def test_the_quick_start_of_mem0(tmp_path: Path) -> None:
    # from mem0 import Memory; m = Memory()
    m = scripted_memory(tmp_path / "memory.db")

    messages = [
        {"role": "user", "content": "I'm planning to watch a movie tonight. Any recommendations?"},
        {"role": "assistant", "content": "How about a thriller movies? They can be quite engaging."},
        {"role": "user", "content": "I'm not a big fan of thriller movies but I love sci-fi movies."},
        {
            "role": "assistant",
            "content": "Got it! I'll avoid thriller recommendations and suggest sci-fi movies in the future.",
        },
    ]
    result = m.add(messages, user_id="alice", metadata={"category": "movie_recommendations"})
    assert {operation["event"] for operation in result["results"]} <= {"ADD", "UPDATE", "DELETE"}
    assert all({"id", "memory", "event"} <= operation.keys() for operation in result["results"])
    raw = m.add(messages, user_id="alice", metadata={"category": "movie_recommendations"}, infer=False)
    assert [operation["memory"] for operation in raw["results"]] == [message["content"] for message in messages]

    all_memories = m.get_all(user_id="alice")
    item = all_memories["results"][0]
    assert item.keys() >= {"id", "memory", "hash", "metadata", "created_at", "updated_at", "user_id"}
    assert (item["user_id"], item["metadata"]) == ("alice", {"category": "movie_recommendations"})
    assert m.get_all(filters={"user_id": "alice"}) == all_memories

    memory_id = item["id"]
    specific_memory = m.get(memory_id)
    assert specific_memory == item

    related_memories = m.search(query="What do you know about me?", user_id="alice")
    assert related_memories["results"] and all("score" in found for found in related_memories["results"])
    assert m.search("What do you know about me?", filters={"user_id": "alice"}) == related_memories
    assert len(m.search("sci-fi", filters={"user_id": "alice"}, top_k=2)["results"]) == 2

    result_of_update = m.update(memory_id=memory_id, text="I love India, it is my favorite country.")
    assert result_of_update == {"message": "Memory updated successfully!"}

    history = m.history(memory_id=memory_id)
    assert [(change["old_memory"], change["new_memory"], change["event"]) for change in history][-1] == (
        item["memory"],
        "I love India, it is my favorite country.",
        "UPDATE",
    )
    assert all(change["memory_id"] == memory_id and change["created_at"] for change in history)
    m.update(memory_id, metadata={"checked": True})
    updated = m.get(memory_id)
    assert updated and updated["memory"] == "I love India, it is my favorite country."
    assert updated["metadata"] == {"category": "movie_recommendations", "checked": True}

    m.delete(memory_id=memory_id)
    assert m.get(memory_id) is None
    assert m.history(memory_id=memory_id)[-1]["is_deleted"] is True
    m.delete_all("alice")
    assert m.get_all(user_id="alice") == {"results": []}
    m.reset()


def test_the_quick_start_of_mem0_for_asyncio() -> None:
    async def run() -> None:
        # from mem0 import AsyncMemory; memory = AsyncMemory()
        memory = AsyncMemory(scripted_memory())
        added = await memory.add(
            messages=[
                {"role": "user", "content": "I'm travelling to SF"},
                {"role": "assistant", "content": "That's great to hear!"},
            ],
            user_id="alice",
        )
        memory_id = added["results"][0]["id"]
        assert (await memory.search(query="Where am I travelling?", user_id="alice"))["results"]
        assert await memory.get(memory_id=memory_id) in (await memory.get_all(user_id="alice"))["results"]
        await memory.update(memory_id=memory_id, data="I'm travelling to Seattle")
        assert [change["event"] for change in await memory.history(memory_id=memory_id)] == ["ADD", "UPDATE"]
        await memory.delete(memory_id=memory_id)
        await memory.delete_all(user_id="alice")
        assert (await memory.get_all(user_id="alice"))["results"] == []
        await memory.close()

    asyncio.run(run())


def test_concurrent_calls_share_the_models_batches() -> None:
    def slowly(prompt: Messages, adapter: str | None) -> str:
        time.sleep(0.005)
        return keeping_script(prompt, adapter)

    model = ScriptedLanguageModel(slowly)

    async def run() -> None:
        async with AsyncMemory(scripted_memory(model=model)) as memory:
            await asyncio.gather(*(memory.add(f"lives in town {n}", user_id=f"user {n}") for n in range(24)))
            for n in range(24):
                answer = await memory.answer("Where?", user_id=f"user {n}")
                assert answer["answer"] == f"User lives in town {n}"

    asyncio.run(run())
    adds = [batch for batch in model.batches if "Last turn" in batch[0]]
    assert sum(map(len, adds)) == 24 and len(adds) < 12


@pytest.mark.parametrize(("name", "known"), [("Memory", True), ("AsyncMemory", True), ("Mem", False)])
def test_the_package_gives_the_classes_on_demand(name: str, known: bool) -> None:
    import memory_r1

    assert hasattr(memory_r1, name) is known
