from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memory_r1.evaluation.records import OperationRow, Prediction, RunInfo, write_run
from memory_r1.jsonl import rewrite_rows
from memory_r1.types import OperationKind
from recipes.compare import main


def write(folder: Path, right: int, system: str = "rag", seed: int = 0, **cost: int) -> Path:
    """Write an evaluation of four questions on one dialogue, the first `right` of them right."""
    rows = [
        Prediction(f"q{number}", "d", "1", {"exact_match": float(number < right)}, "Where?", "Oslo", "Oslo").to_dict()
        for number in range(4)
    ]
    rewrite_rows(folder / "predictions.jsonl", rows)
    operation = OperationRow("d", "t1", OperationKind.ADD, 1, "Ann lives in Oslo", "applied")
    rewrite_rows(folder / "operations.jsonl", [operation.to_dict()])
    write_run(folder, RunInfo("locomo", "test", system, seed=seed, cost={**dict.fromkeys(COST, 4), **cost}))
    return folder


COST = ("write_tokens", "read_tokens", "model_calls")


def compared(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "comparison.json").read_text())
    return content


def test_two_folders_give_a_table_a_file_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, better = write(tmp_path / "a", 1), write(tmp_path / "b", 3, "memory-r1")
    assert main([str(base), str(better), f"--output={tmp_path / 'out'}"]) == 0
    found = compared(tmp_path / "out")
    assert [run["name"] for run in found["runs"]] == ["rag", "memory-r1"]
    printed = " ".join(capsys.readouterr().out.split())
    # Two of four questions gained: the difference, its wins, losses and ties, and 2 * (1/2)^2.
    assert "0.500" in printed and "2/0/2" in printed and "0.5" in printed
    assert "Fewer than 20 dialogues" in printed
    assert "Ann lives in Oslo" not in (tmp_path / "out" / "comparison.json").read_text()
    assert (tmp_path / "out" / "comparison.html").exists()


def test_patterns_are_seeds_in_natural_order(tmp_path: Path) -> None:
    for seed in (2, 10):
        write(tmp_path / f"seed{seed}" / "rag", 1, seed=seed)
        write(tmp_path / f"seed{seed}" / "grpo", 2, seed=seed)
    (tmp_path / "seed3" / "rag").mkdir(parents=True)  # no evaluation yet
    patterns = [str(tmp_path / "seed*" / name) for name in ("rag", "grpo")]
    out = f"--output={tmp_path / 'out'}"
    assert main(["--merge-seeds", *patterns, out, "--no-report", "--names", "base", "trained"]) == 0
    found = compared(tmp_path / "out")
    assert [(run["name"], run["seeds"]) for run in found["runs"]] == [
        ("base", [2, 10]),
        ("trained", [2, 10]),
    ]
    assert main(["--merge-seeds", patterns[0], out, "--no-report"]) == 0
    assert compared(tmp_path / "out")["differences"] == []


def test_runs_of_one_system_go_by_their_folders(tmp_path: Path) -> None:
    folders = [str(write(tmp_path / name, 1)) for name in ("sft", "grpo")]
    assert main([*folders, f"--output={tmp_path / 'out'}", "--no-report"]) == 0
    assert [run["name"] for run in compared(tmp_path / "out")["runs"]] == folders


def test_what_rules_wrote_is_said_of_all_seeds_and_of_two_runs_of_one_system(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(
            tmp_path / f"seed{seed}" / "mem1", 1, "mem1", seed, written_by_model=5 - 4 * seed, written_by_rules=4 * seed
        )
        write(
            tmp_path / f"seed{seed}" / "late", 1, "memgpt", seed, written_by_model=1 - seed, written_by_rules=9 * seed
        )
        write(tmp_path / f"seed{seed}" / "small", 1, "profile", seed, written_by_rules=1)
        write(tmp_path / f"seed{seed}" / "large", 1, "profile", seed, written_by_rules=1)
    patterns = [str(tmp_path / "seed*" / name) for name in ("mem1", "late", "small", "large")]
    assert main(["--merge-seeds", *patterns, f"--output={tmp_path / 'out'}", "--no-report"]) == 0
    names = [run["name"] for run in compared(tmp_path / "out")["runs"]]
    assert names == ["mem1", "memgpt (rules)", f"{patterns[2]} (rules)", f"{patterns[3]} (rules)"]


def test_names_in_brackets_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(write(tmp_path / name, 1)) for name in ("a", "b")]
    names = ["[red]", "[/x]"]
    assert main([*folders, f"--output={tmp_path / 'out'}", "--no-report", "--names", *names]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "one FOLDER cannot be compared"),
        (["a", "b", "--names", "x"], "found 1 names for 2 folders"),
    ],
)
def test_a_command_that_compares_nothing_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_a_pattern_without_evaluations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="matches no evaluation"):
        main(["--merge-seeds", str(tmp_path / "*")])
