"""Many threads on one `Memory`: nobody sees another's text, nothing is lost, and one caller's error stays his."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memory_r1.errors import DataError, MemoryR1Error
from memory_r1.inference.language_model import Messages
from tests.assistant.memories import scripted_memory, texts
from tests.fakes import ScriptedLanguageModel, keeping_script

THREADS, USERS, EACH = 16, 8, 12


def test_sixteen_threads_and_eight_users(tmp_path: Path) -> None:
    model = ScriptedLanguageModel()
    with scripted_memory(tmp_path / "memory.db", model=model) as memory:

        def work(thread: int) -> list[str]:
            user, said = f"user{thread % USERS}", []
            for number in range(EACH):
                word = f"{user}x{thread}n{number}"
                messages = [{"role": "user", "content": f"{word}{part} is {user}'s"} for part in "ab"]
                added = memory.add(messages, user_id=user)["results"]
                said += [operation["memory"] for operation in added]
                assert [operation["event"] for operation in added] == ["ADD", "ADD"]
                answer = memory.answer(f"What is {word}a?", user_id=user)
                found = memory.search(f"{word}a", user_id=user, limit=5)["results"]
                if number % 4 == 3:
                    memory.delete(added[1]["id"])
                    said.remove(added[1]["memory"])
                for item in (*answer["recalled"], *found):
                    assert item["user_id"] == user and item["memory"].endswith(f"is {user}'s")
            return said

        with ThreadPoolExecutor(THREADS) as pool:
            said = list(pool.map(work, range(THREADS)))
        for user in range(USERS):
            expected = [text for thread in range(user, THREADS, USERS) for text in said[thread]]
            assert sorted(texts(memory, f"user{user}")) == sorted(expected)
    for prompt in model.prompts:
        assert len(set(re.findall(r"is (user\d)'s", prompt))) <= 1
    with scripted_memory(tmp_path / "memory.db") as reopened:
        assert sorted(texts(reopened, "user0")) == sorted([*said[0], *said[8]])


def test_an_error_in_a_batch_is_its_callers_alone() -> None:
    def script(prompt: Messages, adapter: str | None) -> str:
        if "poison" in prompt[-1]["content"]:
            raise DataError("this prompt cannot be completed")
        return keeping_script(prompt, adapter)

    memory = scripted_memory(model=ScriptedLanguageModel(script))

    def add(user: int) -> str:
        try:
            memory.add("poison" if user % 5 == 0 else "lives in Rome", user_id=f"user{user}")
        except MemoryR1Error as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(THREADS) as pool:
        errors = list(pool.map(add, range(40)))
    assert [bool(error) for error in errors] == [user % 5 == 0 for user in range(40)]
    assert all(bool(texts(memory, f"user{user}")) is (user % 5 != 0) for user in range(40))


def test_an_interrupt_does_not_hang_the_others() -> None:
    model = ScriptedLanguageModel()
    memory = scripted_memory(model=model)

    def interrupted(prompt: Messages, adapter: str | None) -> str:
        raise KeyboardInterrupt

    model.script = interrupted
    with pytest.raises(KeyboardInterrupt):
        memory.add("lives in Rome", user_id="ann")
    model.script = keeping_script
    memory.add("lives in Oslo", user_id="ben")
    assert (texts(memory, "ann"), texts(memory, "ben")) == ([], ["User lives in Oslo"])
