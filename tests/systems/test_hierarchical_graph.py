"""The three graphs against values derived by hand: a text stands at the angle that it names, in degrees."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from memory_r1.errors import ConfigurationError, ScopeError
from memory_r1.inference.language_model import Messages
from memory_r1.systems.hierarchical_graph import HierarchicalGraph
from memory_r1.systems.writer import Writer, count_writings
from memory_r1.types import Recall, Turn
from tests.fakes import FakeEmbedder, ScriptedLanguageModel

EDGE = math.degrees(math.acos(0.7))
Operation = dict[str, str]


class Compass(FakeEmbedder):
    """The unit vector at the first number of a text, in degrees; at 0 without one."""

    dimension = 2
    identity = "compass"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        angles = [math.radians(float((re.findall(r"-?[\d.]+\b", text) or ["0"])[0])) for text in texts]
        return np.array([[math.cos(angle), math.sin(angle)] for angle in angles], dtype=np.float32).reshape(-1, 2)


class Sessions:
    """Plays sessions of Ann; the model sums up a session by its last turn, and writes the operations it is given."""

    def __init__(self, **options: object) -> None:
        self.operations: list[Operation] = []
        self.model = ScriptedLanguageModel(self._reply)
        settings = {"recall_per_speaker": 3, **options}
        self.memory = HierarchicalGraph(Compass(), Writer(self.model), **settings)  # type: ignore[arg-type]
        self.count = 0

    def _reply(self, prompt: Messages, adapter: str | None) -> str:
        if '"summary"' in prompt[0]["content"]:
            return json.dumps({"summary": prompt[1]["content"].splitlines()[-1]})
        return json.dumps({"operations": self.operations})

    def play(self, *texts: object, operations: Sequence[Operation] = ()) -> int:
        """Play one session; return the newest node, or 0 if there is none."""
        self.count, self.operations = self.count + 1, list(operations)
        day = f"2023-05-{self.count:02}T10:00:00"
        for number, text in enumerate(texts, 1):
            self.memory.observe(Turn(f"D{self.count}:{number}", "Ann", str(text), f"s{self.count}", day), "a")
        self.memory.end_session("a", day)
        return max(self.memory.state("a").chains, default=0)

    def scores(self) -> dict[str, int]:
        state = self.memory.state("a")
        return {state.bank.get(item).text: insight.score for item, insight in state.insights.items()}

    def recall(self, query: str = "0") -> list[str]:
        return [entry.text for entry in self.memory.recall(query, "a").items]


def add(text: str) -> Operation:
    return {"operation": "ADD", "text": text}


def on(kind: str, number: int, **more: str) -> Operation:
    return {"operation": kind, "insight": str(number), **more}


def test_a_session_chains_its_turns_and_is_linked_from_the_threshold_on() -> None:
    sessions = Sessions()
    first = sessions.play("9", " ", "0")
    at, below = sessions.play(f"{EDGE:.9f}"), sessions.play(f"{-EDGE - 0.1:.9f}")
    state = sessions.memory.state("a")
    assert dict(state.chains) == {first: (1, 2), at: (4,), below: (6,)}  # nodes 3, 5 and 7
    assert dict(state.edges) == {first: {at}, at: {first}, below: set()}


def test_a_session_is_linked_to_its_ten_nearest() -> None:
    sessions = Sessions()
    nodes = [sessions.play(number) for number in range(12)]  # degrees apart, so all are similar
    assert sessions.memory.state("a").edges[nodes[-1]] == {*nodes[1:11]}


def test_insights_are_added_agreed_with_edited_and_removed() -> None:
    sessions = Sessions()
    first = sessions.play("1", operations=[add("likes fish"), add("lives in Rome"), add("plays chess")])
    assert sessions.scores() == {"likes fish": 2, "lives in Rome": 2, "plays chess": 2}
    changes = [on("AGREE", 1), on("EDIT", 2, text="lives in Oslo"), on("REMOVE", 3)]
    second = sessions.play("2", operations=changes)
    assert sessions.model.prompts[-1] == ("Ann: 2\nInsights:\n1. likes fish\n2. lives in Rome\n3. plays chess")
    assert sessions.scores() == {"likes fish": 3, "lives in Oslo": 3, "plays chess": 1}
    state = sessions.memory.state("a")
    supporters = {state.bank.get(item).text: set(insight.sessions) for item, insight in state.insights.items()}
    assert supporters == {"likes fish": {first, second}, "lives in Oslo": {first, second}, "plays chess": {first}}
    edited = next(entry for entry in sessions.memory.entries("a") if entry.text == "lives in Oslo")
    assert edited.source_turn_ids == ("D1:1", "D2:1")
    sessions.play("3", operations=[on("REMOVE", 3)])
    assert sessions.scores() == {"likes fish": 3, "lives in Oslo": 3}
    assert "plays chess" not in [entry.text for entry in sessions.memory.entries("a")]


@pytest.mark.parametrize(("count", "left"), [(9, 1), (10, None)])
def test_among_ten_insights_a_removal_weighs_three(count: int, left: int | None) -> None:
    sessions = Sessions()
    sessions.play("1", operations=[add(f"fact {number}") for number in range(5)])
    sessions.play("2", operations=[add(f"fact {number}") for number in range(5, count)])
    sessions.play("3", operations=[on("REMOVE", 1)])
    assert sessions.scores().get("fact 0") == left


def test_what_is_known_is_agreed_with_and_what_cannot_be_done_is_refused_and_counted() -> None:
    sessions = Sessions()
    sessions.play("1", operations=[add("likes fish")])
    bad = [on("AGREE", 2), {"operation": "EDIT", "insight": "1"}, on("REMOVE", 1), {"operation": "ADD"}]
    sessions.play("2", operations=[add("likes fish"), *bad])
    assert sessions.scores() == {"likes fish": 3}
    *_, event = sessions.memory.records("a")[-1].events
    assert event.payload == {"task": "insights", "by": "model", "refused": 4}
    sessions.play("3", operations=[add("owns a goat")] * 5)  # a model that repeats itself does not raise a score
    assert sessions.scores() == {"likes fish": 3, "owns a goat": 2}
    assert sessions.memory.records("a")[-1].events[-1].payload["refused"] == 4


def test_a_question_goes_up_from_the_sessions_it_finds_and_down_through_their_neighbours() -> None:
    """The question stands at 0 degrees; a cosine of 0.3 is 72.5 degrees, one of 0.7 is 45.6."""
    for depth, expected in (
        (4, ["up", "5", "20", "50"]),
        (6, ["up", "5", "20", "50", "60", "10"]),  # 10 is nearer, but no link leads to it
        (8, ["up", "5", "20", "50", "60", "10", "80", "180"]),  # 80 is in the session found, but too far away
    ):
        sessions = Sessions(hit_sessions=1, recall_per_speaker=depth)
        sessions.play("5", "80", "20", operations=[add("up")])
        sessions.play("60", "50", operations=[add("of a neighbour")])  # 30 degrees from the first
        sessions.play("10", "180", operations=[add("of no session found")])
        assert sessions.recall() == expected


def test_the_running_session_is_recalled_too() -> None:
    sessions = Sessions(hit_sessions=1, recall_per_speaker=2)
    sessions.play("5", "180")
    sessions.play("20", "30")
    sessions.memory.observe(Turn("D9:1", "Ann", "40", "s9", "2023-05-09T10:00:00"), "a")
    sessions.memory.observe(Turn("D9:2", "Ann", "10", "s9", "2023-05-09T10:00:00"), "a")
    assert sessions.recall() == ["10", "20"]


def test_insights_stand_by_score_then_support_then_age() -> None:
    sessions = Sessions(recall_per_speaker=15)
    sessions.play("1", operations=[add("old"), add("agreed"), add("edited"), add("doubted")])
    sessions.play("2", operations=[on("AGREE", 2), on("EDIT", 3, text="edited again"), on("AGREE", 4)])
    sessions.play("3", operations=[on("AGREE", 3), on("REMOVE", 4), add("new")])
    assert sessions.scores() == {"old": 2, "agreed": 3, "edited again": 4, "doubted": 2, "new": 2}
    assert sessions.recall()[:5] == ["edited again", "agreed", "doubted", "new", "old"]


def test_feedback_promotes_and_drops_the_insights_of_a_recall() -> None:
    sessions = Sessions()  # one insight in a recall of three
    sessions.play("1", operations=[add("old"), add("new")])
    memory = sessions.memory
    recall = memory.recall("0", "a")
    assert recall.items[0].text == "new"
    memory.feedback(recall, 1.0)
    memory.feedback(recall, 0.0)
    assert sessions.scores() == {"old": 2, "new": 1}  # 2 + 1 - 2
    recall = memory.recall("0", "a")
    assert recall.items[0].text == "old"
    memory.feedback(recall, 0.5)
    sessions.play("2", operations=[add("newest")])
    assert sessions.recall()[0] == "old"  # 3 before 2
    for _ in range(2):
        memory.feedback(recall, 0.0)
    assert sessions.scores() == {"new": 1, "newest": 2}
    memory.feedback(recall, 1.0)  # what is gone stays gone
    assert sessions.scores() == {"new": 1, "newest": 2}


def test_recalls_and_feedback_on_none_of_the_insights_write_nothing() -> None:
    sessions = Sessions()
    sessions.play("1", operations=[add("old")])
    memory = sessions.memory
    before = memory.records("a"), sessions.scores()
    recall = memory.recall("0", "a")
    memory.feedback(Recall(recall.items[1:], scope="a"), 1.0)
    memory.feedback(memory.recall("0", "b"), 1.0)
    assert (memory.records("a"), sessions.scores(), memory.records("b")) == (*before, ())
    with pytest.raises(ScopeError):
        memory.feedback(Recall(recall.items), 1.0)


def test_graphs_and_scores_are_read_back_from_the_file(tmp_path: Path) -> None:
    sessions = Sessions()
    sessions.play("1", operations=[add("old"), add("new")])
    sessions.play("2", operations=[on("EDIT", 1, text="edited")])
    sessions.memory.feedback(sessions.memory.recall("0", "a"), 1.0)
    sessions.memory.save(tmp_path / "memory")
    loaded = HierarchicalGraph(Compass(), recall_per_speaker=3)
    loaded.load(tmp_path / "memory")
    first, second = sessions.memory.state("a"), loaded.state("a")
    assert (first.chains, first.edges, first.insights) == (second.chains, second.edges, second.insights)
    assert loaded.recall("0", "a") == sessions.memory.recall("0", "a")
    assert sessions.scores() == {"edited": 4, "new": 2}


def test_without_a_model_rules_keep_statements_and_agree_with_what_is_said_again() -> None:
    memory = HierarchicalGraph(FakeEmbedder(), recall_per_speaker=9)
    for day, texts in enumerate((("I like fish. Hello!", "How are you?"), ("I like fish.", "My cat sleeps.")), 1):
        for number, text in enumerate(texts):
            memory.observe(Turn(f"D{day}:{number}", "Ann", text, f"s{day}"), "a")
        memory.end_session("a", f"2023-05-0{day}T10:00:00")
    state = memory.state("a")
    assert {state.bank.get(item).text: insight.score for item, insight in state.insights.items()} == {
        "Ann: I like fish.": 3,
        "Ann: My cat sleeps.": 2,
    }
    assert [state.bank.get(node).text for node in sorted(state.chains)] == [
        "Ann: I like fish.",
        "Ann: I like fish. Ann: My cat sleeps.",
    ]
    assert count_writings(memory.records("a")) == {"written_by_model": 0, "written_by_rules": 4}


def test_a_forgotten_turn_takes_along_its_session_and_insights(tmp_path: Path) -> None:
    sessions = Sessions()
    sessions.play("1 secretcats", "2", operations=[add("owns secretcats")])
    kept = sessions.play("3", operations=[add("plays chess")])
    assert sessions.memory.forget("a", {1}) == 3  # the turn, the session, the insight
    sessions.memory.save(tmp_path / "memory")
    content = (tmp_path / "memory").read_bytes()
    assert (b"secretcats" in content, b"plays chess" in content) == (False, True)
    assert [*sessions.memory.state("a").chains] == [kept]
    assert sessions.recall() == ["plays chess", "3", "2"]


def test_a_session_that_another_writer_ends_in_between_is_one_node_and_can_be_forgotten(tmp_path: Path) -> None:
    sessions, other = Sessions(), HierarchicalGraph(Compass(), recall_per_speaker=3)
    for memory in (sessions.memory, other):
        memory.load(tmp_path / "memory", create=True)
    reply = sessions.model.script

    def interrupted(prompt: Messages, adapter: str | None) -> str:
        if '"operations"' in prompt[0]["content"]:
            other.end_session("a", "2023-05-01T10:00:00")
            other.observe(Turn("D2:1", "Ann", "7", "s2", "2023-05-02T10:00:00"), "a")
        return reply(prompt, adapter)

    sessions.model.script = interrupted
    sessions.play("1 secretcats", operations=[add("owns secretcats")])
    state = sessions.memory.state("a")
    assert dict(state.chains) == {2: (1,)}
    assert [state.bank.get(item).text for item in state.running] == ["7"]  # the next session is still running
    sessions.memory.forget("a", {1})
    assert [entry.text for entry in sessions.memory.entries("a")] == ["7"]


@pytest.mark.parametrize("options", [{"hit_sessions": 0}, {"edge_similarity": 2.0}, {"turn_similarity": -1.1}])
def test_what_is_out_of_range_is_refused(options: dict[str, object]) -> None:
    (name,) = options
    build: Callable[..., object] = Sessions
    with pytest.raises(ConfigurationError, match=f"{name} is "):
        build(**options)
