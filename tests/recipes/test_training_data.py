"""Which rows a recipe trains on."""

from __future__ import annotations

from recipes.training_data import _answerable


def test_unanswerable_rows_keep_their_share_of_those_that_memories_answer() -> None:
    def row(name: str, answer: str, recalled: str) -> dict[str, object]:
        return {"name": name, "answer": answer, "evidence": ["t1"], "sources": [[recalled]], "texts": ["..."]}

    known = [row("a", "Rome", "t1"), row("b", "Oslo", "t2"), row("c", "tea", "t1"), row("d", "cat", "t3")]
    unknown = [row("x", "unknown", "t1"), row("y", "unknown", "t1")]
    assert [kept["name"] for kept in _answerable([*known, *unknown])] == ["a", "c", "x"]
    assert [kept["name"] for kept in _answerable(known)] == ["a", "c"]
