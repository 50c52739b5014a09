from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from memory_r1.errors import ConfigurationError, DataError
from memory_r1.evaluation.resume import alone_in, discard_folder
from memory_r1.inference.language_model import Completion, Messages
from memory_r1.systems.base import MemorySystem, RecallRequest
from memory_r1.systems.memagent import MEMORY
from memory_r1.systems.table import SYSTEMS
from memory_r1.types import Question, Recall
from tests.fakes import ScriptedLanguageModel, keeping_script
from tests.small_runs import RUN, build, comparable, dialogues, rows, run_it

FOLDER = {"memory.db", "predictions.jsonl", "operations.jsonl", "run.json", "results.json", "report.html"}


def test_the_folder_holds_what_the_design_says(tmp_path: Path) -> None:
    results = run_it(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= FOLDER
    assert json.loads((tmp_path / "results.json").read_text()) == results
    predictions = {(row["dialogue_id"], row["question_id"]): row for row in rows(tmp_path, "predictions")}
    row = predictions["a", "q1"]
    seconds = row.pop("seconds")
    assert seconds > 0
    assert row == {
        "question_id": "q1",
        "dialogue_id": "a",
        "category": "1",
        "question": "Where does Ann lives in?",
        "gold": "Ann lives in Oslo",
        "prediction": "Ann lives in Oslo",
        "evidence": ["D1:1", "D2:1"],
        "recalled": [
            {"entry_id": 1, "text": "Ann lives in Oslo", "source_turn_ids": ["D1:1", "D2:1"]},
            {"entry_id": 2, "text": "Ben owns two dogs", "source_turn_ids": ["D1:2"]},
        ],
        "distilled": [{"entry_id": 1, "text": "Ann lives in Oslo", "source_turn_ids": ["D1:1", "D2:1"]}],
        "metrics": {
            "exact_match": 1.0,
            "f1_mem0": 1.0,
            "f1_locomo": 1.0,
            "f1_squad": 1.0,
            "bleu1": 1.0,
            "evidence_recall": 1.0,
        },
        "tokens": row["tokens"],
        "cut": 0,
        "recall_cost": {},
    }
    assert predictions["a", "q3"]["metrics"]["evidence_recall"] is None
    assert len(predictions) == 4


def test_every_operation_stands_in_the_log_with_what_became_of_it(tmp_path: Path) -> None:
    run_it(tmp_path)
    logged = [
        (row["dialogue_id"], row["turn_id"], row["op"], row["entry_id"], row["status"], row["reason"])
        for row in rows(tmp_path, "operations")
    ]
    assert logged == [
        ("a", "D1:1", "ADD", 1, "applied", None),
        ("a", "D1:2", "ADD", 2, "applied", None),
        ("a", "D1:3", "NOOP", None, "applied", None),
        ("a", "D2:1", "UPDATE", 1, "applied", None),
        ("a", "D2:2", None, None, "parse_failure", "not_json"),
        ("a", "D2:3", None, None, "refused", "unknown_id"),
        ("c", "D1:1", "ADD", 1, "applied", None),
        ("c", "D2:1", "ADD", 2, "applied", None),
    ]


def test_results_count_operations_and_cost(tmp_path: Path) -> None:
    model = ScriptedLanguageModel()
    results = run_it(tmp_path, model)
    assert results["operations"] == {
        "ADD": 4,
        "UPDATE": 1,
        "DELETE": 0,
        "NOOP": 1,
        "parse_failures": 1,
        "unknown_ids": 1,
    }
    # Eight managed turns and four answers: tokens read and written are those that went through the model.
    assert results["cost"]["model_calls"] == 12 == len(model.prompts)
    assert results["cost"]["read_tokens"] == sum(row["tokens"] for row in rows(tmp_path, "predictions"))
    # Every turn here has one operation, which records the cost of writing.
    assert results["cost"]["write_tokens"] == sum(
        row["prompt_tokens"] + row["completion_tokens"] for row in rows(tmp_path, "operations")
    )
    assert min(results["cost"][name] for name in ("write_tokens", "read_tokens", "answer_seconds_p50")) > 0
    assert results["cost"]["answer_seconds_p50"] <= results["cost"]["answer_seconds_p95"]
    assert results["by_category"]["1"]["names"] == {"locomo": "multi-hop", "mem0": "single-hop"}
    assert (results["n_questions"], results["config"]["recall_per_speaker"]) == (4, 2)


def test_what_a_recall_asks_a_model_is_counted_with_the_answers_and_after_a_resumed_run_too(tmp_path: Path) -> None:
    """Each question has one section to read; the rules stand in for dialogue "a", whose last line tells "noise"."""
    run = dataclasses.replace(RUN, system="memagent")

    def script(prompt: Messages, adapter: str | None) -> str:
        return "noise" if "Ben: noise" in prompt[-1]["content"] else keeping_script(prompt, adapter)

    model = ScriptedLanguageModel(script)
    results = run_it(tmp_path / "whole", system=build("memagent", model), run=run)
    cost = results["cost"]
    assert (cost["written_by_model"], cost["written_by_rules"]) == (1, 3)
    assert results["system"] == "memagent (rules)"
    assert (cost["model_calls"], cost["write_tokens"], len(model.prompts)) == (8, 0, 4)
    asked = rows(tmp_path / "whole", "predictions")
    for row, prompt in zip(asked, model.prompts, strict=True):
        read = len(MEMORY.instructions.split()) + len(prompt.split())
        assert row["tokens"] > row["recall_cost"]["model_tokens"] > read
    assert cost["read_tokens"] == sum(row["tokens"] for row in asked)
    killed = ScriptedLanguageModel(script, fail_after=2)
    with pytest.raises(InterruptedError):
        run_it(tmp_path / "killed", system=build("memagent", killed), run=run, batch_size=1)
    again = run_it(tmp_path / "killed", system=build("memagent", ScriptedLanguageModel(script)), run=run)
    assert comparable(again) == comparable(results)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_evaluated_and_its_finished_run_asks_no_model_again(name: str, tmp_path: Path) -> None:
    class ReadsLatents(ScriptedLanguageModel):
        def generate_with_latents(self, prompts: Any, latents: Any, **options: Any) -> list[Completion]:
            return self.generate(prompts, **options)

    run, model, idle = dataclasses.replace(RUN, system=name), ReadsLatents(), ReadsLatents(fail_after=0)
    first = run_it(tmp_path, model, build(name, model), run=run)
    assert run_it(tmp_path, idle, build(name, idle), run=run) == first
    assert first["n_questions"] == 4


@pytest.mark.parametrize("fail_after", range(0, 12))
def test_a_killed_run_goes_on_to_the_same_results_and_asks_nothing_twice(fail_after: int, tmp_path: Path) -> None:
    expected = run_it(tmp_path / "whole")
    killed = ScriptedLanguageModel(fail_after=fail_after)
    with pytest.raises(InterruptedError):
        run_it(tmp_path / "killed", killed)
    rest = ScriptedLanguageModel()
    results = run_it(tmp_path / "killed", rest, batch_size=1)
    assert comparable(results) == comparable(expected)
    assert len(killed.prompts) + len(rest.prompts) == 12
    assert rows(tmp_path / "killed", "operations") == rows(tmp_path / "whole", "operations")


def test_a_folder_of_another_run_is_refused_with_what_differs_and_the_ways_on(tmp_path: Path) -> None:
    run_it(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = dataclasses.replace(RUN, seed=7, config={"recall_per_speaker": 5})
    with pytest.raises(
        ConfigurationError,
        match=r"limit was null, is 3; config\.recall_per_speaker was 2, is 5; seed was 0, is 7\): choose another",
    ):
        run_it(tmp_path, run=other, limit=3, dialogues=dialogues())
    changed = dialogues()
    changed[0] = dataclasses.replace(changed[0], questions=changed[0].questions[:1])
    with pytest.raises(ConfigurationError, match=r"config\.data_sha256 was"):
        run_it(tmp_path, dialogues=changed)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_rows_without_a_run_are_refused(tmp_path: Path) -> None:
    (tmp_path / "operations.jsonl").write_text("{}\n")
    with pytest.raises(ConfigurationError, match=r"operations\.jsonl but no run\.json"):
        run_it(tmp_path)


def test_a_run_of_an_earlier_version_is_not_gone_on_with(tmp_path: Path) -> None:
    run_it(tmp_path)
    (tmp_path / "memory.db").unlink()
    with pytest.raises(ConfigurationError, match=r"operations\.jsonl but no memory\.db.* can still be rescored"):
        run_it(tmp_path)
    assert not (tmp_path / "memory.db").exists()


def test_sessions_and_limit_reach_the_run(tmp_path: Path) -> None:
    results = run_it(tmp_path / "sessions", sessions=1)
    # q1 of both needs the second session, q3 has no evidence.
    assert [row["question"] for row in rows(tmp_path / "sessions", "predictions")] == ["Who owns two dogs?"]
    assert {row["turn_id"][:2] for row in rows(tmp_path / "sessions", "operations")} == {"D1"}
    assert (results["config"]["sessions"], results["config"]["limit"]) == (1, None)
    assert run_it(tmp_path / "limit", limit=2)["n_questions"] == 2


def test_a_budget_reaches_every_recall_and_what_it_cuts_is_counted(tmp_path: Path) -> None:
    unbounded = run_it(tmp_path / "whole")
    assert unbounded["config"]["budget_tokens"] is None
    results = run_it(tmp_path / "cut", budget_tokens=1)
    whole, cut = rows(tmp_path / "whole", "predictions"), rows(tmp_path / "cut", "predictions")
    assert all(row["recalled"] == [] for row in cut)
    assert [row["cut"] for row in cut] == [len(row["recalled"]) for row in whole]
    cost = json.loads((tmp_path / "cut" / "run.json").read_text())["cost"]
    assert cost["cut_entries"] == sum(len(row["recalled"]) for row in whole) > 0
    assert results["overall"]["evidence_recall"]["mean"] == 0


@pytest.mark.parametrize("budget", [0, -5])
def test_a_budget_of_nothing_is_refused(budget: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"budget_tokens is {budget}: give a whole number from 1"):
        run_it(tmp_path / "run", budget_tokens=budget)
    assert not (tmp_path / "run").exists()


class Watched(MemorySystem):
    """Forwards every call to another system and records it."""

    def __init__(self, inner: MemorySystem) -> None:
        self.inner = inner
        self.given: list[Any] = []
        for name in ("observe", "entries", "records", "forget", "save", "load"):
            setattr(self, name, getattr(inner, name))

    observe = entries = records = forget = save = load = None  # type: ignore[assignment]

    def recall(self, query: str, scope: str, now: str = "", budget_tokens: int | None = None) -> Recall:
        return self.recall_many([RecallRequest(query, scope, now, budget_tokens)])[0]

    def begin(self, *arguments: Any) -> None:
        self.given.append(("begin", *arguments))
        self.inner.begin(*arguments)

    def end_session(self, *arguments: Any) -> None:
        self.given.append(("end_session", *arguments))
        self.inner.end_session(*arguments)

    def observe_many(self, *arguments: Any) -> Any:
        self.given.append(("observe_many", *arguments))
        return self.inner.observe_many(*arguments)

    def recall_many(self, *arguments: Any) -> Any:
        self.given.append(("recall_many", *arguments))
        return self.inner.recall_many(*arguments)

    def feedback(self, recall: Recall, reward: float) -> None:
        raise AssertionError("an evaluation called feedback")


def test_a_system_is_told_turns_then_questions_and_never_gold(tmp_path: Path) -> None:
    model = ScriptedLanguageModel()
    watched = Watched(build("memory-r1", model))
    secret = dataclasses.replace(
        dialogues()[0],
        questions=(Question("q9", "What is it?", "THE-GOLD", "THE-CATEGORY", ("D1:2",), "2023-06-01T00:00:00"),),
    )
    run_it(tmp_path, model, watched, dialogues=[secret, dialogues()[1]])
    calls = [name for name, *_ in watched.given]
    assert calls.index("recall_many") > max(place for place, name in enumerate(calls) if name == "observe_many")
    assert calls.count("recall_many") == 1  # Two questions, one batch.
    told = repr([given for given in watched.given if given[0] != "recall_many"])
    assert "What is it?" not in told
    for leak in ("THE-GOLD", "THE-CATEGORY"):
        assert leak not in repr(watched.given)
        assert not any(leak in prompt for prompt in model.prompts)
    (asked,) = (given[1] for given in watched.given if given[0] == "recall_many")
    assert asked == [
        RecallRequest("What is it?", "a", "2023-06-01T00:00:00"),
        # Without a time, the question is asked after the last session.
        RecallRequest("Who plays chess?", "c", "2023-05-02T10:00:00"),
    ]


def test_the_oracle_knows_the_evidence_of_questions_with_the_same_wording(tmp_path: Path) -> None:
    (first, *_) = dialogues()
    asked = (Question("q1", "Who?", "Ann", "1", ("D1:1",)), Question("q2", "Who?", "Ben", "1", ("D1:2",)))
    run = dataclasses.replace(RUN, system="oracle")
    system = build("oracle", ScriptedLanguageModel())
    run_it(tmp_path, system=system, run=run, dialogues=[dataclasses.replace(first, questions=asked)])
    assert [row["metrics"]["evidence_recall"] for row in rows(tmp_path, "predictions")] == [1.0, 1.0]


def test_only_the_oracle_recalls_by_evidence(tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, system="oracle")
    run_it(tmp_path, system=build("oracle", ScriptedLanguageModel()), run=run)
    recalled = {
        (row["dialogue_id"], row["question_id"]): [
            turn for entry in row["recalled"] for turn in entry["source_turn_ids"]
        ]
        for row in rows(tmp_path, "predictions")
    }
    assert recalled == {("a", "q1"): ["D1:1", "D2:1"], ("a", "q2"): ["D1:2"], ("a", "q3"): [], ("c", "q1"): ["D2:1"]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda both: [both[0], both[0]], "dialogue id 'a' occurs more than once"),
        (
            lambda both: [dataclasses.replace(both[0], questions=both[0].questions * 2)],
            "question id 'q1' occurs more than once in dialogue 'a'",
        ),
        (lambda both: [dataclasses.replace(both[0], questions=())], "no question is left to ask"),
        (lambda both: [], "no question is left to ask"),
    ],
)
def test_dialogues_that_cannot_be_scored_are_refused_before_anything_is_written(
    change: Any, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=complaint):
        run_it(tmp_path / "run", dialogues=change(dialogues()))
    assert not (tmp_path / "run").exists()


def test_a_system_that_already_holds_a_dialogue_is_refused(tmp_path: Path) -> None:
    system = build("rag", ScriptedLanguageModel())
    system.observe(dialogues()[0].turns()[0], "a")
    with pytest.raises(ConfigurationError, match="already holds 'a'"):
        run_it(tmp_path, system=system)


def test_a_batch_holds_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="batch_size is 0"):
        run_it(tmp_path, batch_size=0)


def test_a_folder_in_which_another_evaluation_runs_is_refused(tmp_path: Path) -> None:
    run_it(tmp_path / "run")
    with (
        alone_in(tmp_path / "run"),
        pytest.raises(ConfigurationError, match=r"another evaluation is running in .*run: wait for it"),
    ):
        run_it(tmp_path / "run")


def test_only_an_evaluation_is_discarded(tmp_path: Path) -> None:
    run_it(tmp_path / "run")
    discard_folder(tmp_path / "run")
    discard_folder(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigurationError, match=r"no run\.json"):
        discard_folder(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
