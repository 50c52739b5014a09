"""The table of benchmarks: names, forms, cut turns and audits, and a run of each benchmark on made-up files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from data import locomo_audit
from data.locomo_audit import AUDIT_FILE
from data.msc import CONVERSATIONS_FILE, OFFICIAL_NAME, QUESTIONS_FILE
from memory_r1.entry import run_main
from memory_r1.errors import ConfigurationError
from memory_r1.types import Dialogue, Question, Session, Turn
from recipes import benchmarks, evaluate
from recipes.benchmarks import complete, cut_turns, data_configuration, folder_name, load_benchmark, reported_name


def chosen(*arguments: str) -> argparse.Namespace:
    options = evaluate.parse_arguments(arguments)
    complete(options)
    return options


def dialogue(*texts: str, dialogue_id: str = "conv-26") -> Dialogue:
    turns = tuple(Turn(f"D1:{number}", "Ann", text, "s1", "2023") for number, text in enumerate(texts, start=1))
    question = Question(f"{dialogue_id}:0", "?", "x", "1")
    return Dialogue(dialogue_id, ("Ann",), (Session("s1", "2023", turns),), (question,))


class Letters:
    """A tokenizer with one token per character, but three per emoji, each covering it whole."""

    is_fast = True

    def __call__(self, text: str, **options: bool) -> dict[str, Any]:
        assert options == {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
        spans = [(place, place + 1) for place, letter in enumerate(text) for _ in range(3 if letter == "🛶" else 1)]
        return {"offset_mapping": spans}


def test_turns_are_cut_at_a_whole_character_and_counted() -> None:
    (short,), said = cut_turns([dialogue("abcd", "abcde", "abc def", "ab🛶🛶", "🛶🛶")], 4, Letters())

    assert [turn.text for turn in short.turns()] == [
        "abcd",  # just fits
        "abcd",
        "abc",  # and no blank at the end
        "ab",  # four tokens would end within the emoji
        "🛶",
    ]
    assert said == {"max_turn_tokens": 4, "cut_turns": 4, "turns": 5}
    assert [turn.turn_id for turn in short.turns()] == ["D1:1", "D1:2", "D1:3", "D1:4", "D1:5"]


def test_a_character_longer_than_the_bound_is_kept_rather_than_an_empty_turn() -> None:
    (short,), _ = cut_turns([dialogue("🛶a")], 1, Letters())
    assert [turn.text for turn in short.turns()] == ["🛶"]


def test_nothing_is_cut_unless_asked_for() -> None:
    assert cut_turns([dialogue("abcde")], None, Letters()) == ([dialogue("abcde")], {})


def test_a_slow_tokenizer_is_refused() -> None:
    slow = Letters()
    slow.is_fast = False
    with pytest.raises(ConfigurationError, match="needs a fast tokenizer"):
        cut_turns([dialogue("a")], 1, slow)


def test_a_real_tokenizer_keeps_as_many_tokens_as_it_may(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = "Ann lives in Lisbon now, naïvely 🛶 paddling since 8 May 2023."
    for bound in range(1, 30):
        (short,), _ = cut_turns([dialogue(text)], bound, tokenizer)
        kept = short.turns()[0].text
        assert text.startswith(kept)
        count = len(tokenizer(kept, add_special_tokens=False)["input_ids"])
        assert 0 < count <= max(bound, 4)  # an emoji has four tokens here
        assert count >= bound - 4


@pytest.mark.parametrize(
    ("benchmark", "first", "all_of_them"),
    [
        ("everyday", ["everyday-test-001", "everyday-test-002"], 30),
        ("synthetic", ["synthetic-heldout-0-0", "synthetic-heldout-0-1"], 20),
    ],
)
def test_the_first_dialogues_of_any_benchmark_can_be_chosen(benchmark: str, first: list[str], all_of_them: int) -> None:
    options = chosen("--benchmark", benchmark, "--dialogues", "2")
    assert [dialogue.dialogue_id for dialogue in load_benchmark(options)] == first
    assert folder_name(options, "rag") == f"{benchmark}-test-rag.dialogues2"
    assert len(load_benchmark(chosen("--benchmark", benchmark))) == all_of_them


@pytest.mark.parametrize(
    ("arguments", "name", "folder"),
    [
        (["--benchmark", "longmemeval"], "longmemeval", "longmemeval-test-rag"),
        (["--benchmark", "longmemeval", "--form", "s"], "longmemeval", "longmemeval-s-test-rag"),
        (["--benchmark", "msc", "--form", "official"], "msc", "msc-test-rag"),
        (["--benchmark", "msc", "--form", "approximate"], "msc-approximate", "msc-approximate-validation-rag"),
        (["--benchmark", "synthetic"], "synthetic", "synthetic-test-rag"),
        (["--benchmark", "synthetic", "--form", "two-hop"], "synthetic-two-hop", "synthetic-two-hop-test-rag"),
        (["--benchmark", "everyday"], "everyday", "everyday-test-rag"),
    ],
)
def test_the_development_set_and_s_never_pass_for_something_else(arguments: list[str], name: str, folder: str) -> None:
    options = chosen(*arguments, "--system", "rag")
    assert (reported_name(options), folder_name(options, "rag")) == (name, folder)
    assert data_configuration(options, []) == ({"form": options.form} if options.form else {})


def test_the_audit_beside_the_data_is_written_down_for_the_questions_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = chosen("--benchmark", "locomo", "--data", str(tmp_path))
    with caplog.at_level("INFO"):
        assert data_configuration(options, [dialogue("a")]) == {}
    assert f"{AUDIT_FILE.name} is not beside the data" in caplog.text

    found = {"conv-26/conv-26:0": "HALLUCINATION", "conv-26/conv-26:1": "AMBIGUOUS", "conv-30/conv-30:0": "AMBIGUOUS"}
    monkeypatch.setattr(locomo_audit, "load_audit", lambda path: found)
    (tmp_path / AUDIT_FILE.name).write_text("[]", encoding="utf-8")
    assert data_configuration(options, [dialogue("a")]) == {
        "audit": {"error_types": {"conv-26/conv-26:0": "HALLUCINATION"}}
    }


OFFICIAL = {
    "previous_dialogs": [{"time_back": "1 day ago", "dialog": [{"text": "I paint."}, {"text": "I sail."}]}],
    "dialog": [{"text": "Hello.", "id": "Speaker 1"}],
    "self_instruct": {"B": "What do you do?", "A": "paint"},
}


def run(arguments: list[str], tiny_model: Path, output: Path) -> dict[str, Any]:
    arguments += ["--system", "full-context", "--model", str(tiny_model), "--quiet"]
    assert run_main(evaluate.main, [*arguments, "--output", str(output)]) == 0
    return json.loads((output / "results.json").read_text(encoding="utf-8"))


def test_msc_is_evaluated_from_a_file_of_the_users(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / OFFICIAL_NAME).write_text(json.dumps(OFFICIAL) + "\n", encoding="utf-8")

    results = run(
        ["--benchmark", "msc", "--data", str(tmp_path), "--max-turn-tokens", "2"], tiny_model, tmp_path / "run"
    )

    assert (results["benchmark"], results["split"], results["n_questions"]) == ("msc", "test", 1)
    assert results["config"]["form"] == "official"
    # "I paint." and "I sail." are longer than two tokens; so is "Hello." with these few merges
    assert {name: results["config"][name] for name in ("max_turn_tokens", "cut_turns", "turns")} == {
        "max_turn_tokens": 2,
        "cut_turns": 3,
        "turns": 3,
    }
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert row["question"] == "Speaker 2 asks Speaker 1: What do you do?"
    assert "paint." not in json.dumps(row["recalled"])


def test_the_development_set_is_reported_under_its_own_name(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = {"id": "valid_7", "sessions": [{"time_back": None, "turns": [{"speaker": 1, "text": "I paint."}]}]}
    matched = {"index": 3, "conversation": "valid_7", "question": "What does Speaker_3_A do", "answer": "paint"}
    (tmp_path / CONVERSATIONS_FILE.name).write_text(json.dumps(conversation), encoding="utf-8")
    (tmp_path / QUESTIONS_FILE.name).write_text(json.dumps(matched), encoding="utf-8")
    monkeypatch.setattr("data.downloads.PublishedFile.check", lambda *arguments: None)

    results = run(["--benchmark", "msc", "--data", str(tmp_path)], tiny_model, tmp_path / "run")

    assert (results["benchmark"], results["split"]) == ("msc-approximate", "validation")
    assert "turns" not in results["config"]


def test_every_benchmark_has_a_place_in_the_table() -> None:
    assert list(benchmarks.BENCHMARKS) == ["synthetic", "everyday", "locomo", "longmemeval", "msc", "dialogues"]
    assert benchmarks.default_recall() == "synthetic 2, everyday 2, locomo 30, longmemeval 30, msc 30, dialogues 30"
