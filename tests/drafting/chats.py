"""A dialogue without questions, and a model that drafts for it and answers."""

from __future__ import annotations

import json

from memory_r1.inference.language_model import Messages
from memory_r1.types import Dialogue, Session, Turn
from tests.fakes import ScriptedLanguageModel


def session(number: int, *said: tuple[str, str]) -> Session:
    time = f"2023-05-0{number}T10:00:00"
    turns = (Turn(f"s{number}:{place}", who, text, f"s{number}", time) for place, (who, text) in enumerate(said, 1))
    return Session(f"s{number}", time, tuple(turns))


def chat(dialogue_id: str = "d1") -> Dialogue:
    return Dialogue(
        dialogue_id,
        ("Ann", "Ben"),
        (
            session(1, ("Ann", "I live in Rome."), ("Ben", "hm"), ("Ben", "I own two dogs.")),
            session(2, ("Ann", "I moved to Oslo."), ("Ben", "noise")),
        ),
    )


def asked(question: str, answer: str, *evidence: int, category: str = "recall") -> dict[str, object]:
    return {"question": question, "answer": answer, "category": category, "evidence": list(evidence)}


REPLIES = {
    "I live in Rome": [asked("Where does Ann live?", "Rome", 1), asked("What does Ben own?", "two dogs", 3)],
    "I moved to Oslo": [asked("Where does Ann live?", "Oslo", 1, category="update")],
}


def reply(prompt: Messages, adapter: str | None) -> str:
    """Draft the questions above, "noise" not parsing if it stands alone; answer with the first memory shown."""
    read = prompt[-1]["content"]
    if '{"questions": ' in prompt[0]["content"]:
        found = [item for said, items in REPLIES.items() if said in read for item in items]
        return "I cannot." if not found else json.dumps({"questions": found})
    said = [text for text in ("Rome", "two dogs", "Oslo") if text in read]
    return f"Memories: 1\n**Answer:** {said[0]}" if said else "Memories: none\n**Answer:** unknown"


def scripted(fail_after: int | None = None) -> ScriptedLanguageModel:
    return ScriptedLanguageModel(reply, fail_after=fail_after)
