from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from memory_r1.errors import ConfigurationError, DataError
from memory_r1.evaluation.records import Prediction, RunInfo, write_run
from memory_r1.evaluation.scoring.comparison import Side, compare, read_side
from memory_r1.jsonl import rewrite_rows

RUN = RunInfo("locomo", "test", "rag", config={"data_sha256": "a"}, category_names={"1": {"locomo": "multi-hop"}})


def write(folder: Path, scores: Sequence[float | None], run: RunInfo = RUN, judge: str = "") -> Path:
    """Write an evaluation of one dialogue; even questions are of category 1, odd ones of category 2."""
    rows = []
    for number, score in enumerate(scores):
        metrics = {"f1_squad": score, "exact_match": 0.0}
        rows.append(Prediction(f"q{number}", "d", str(1 + number % 2), metrics).to_dict())
    rewrite_rows(folder / "predictions.jsonl", rows)
    rewrite_rows(folder / "operations.jsonl", [])
    write_run(folder, run)
    if judge:
        verdict = {"dialogue_id": "d", "question_id": "q0", "rubric": "lenient", "judge": judge, "verdict": True}
        rewrite_rows(folder / "verdicts.jsonl", [verdict])
    return folder


def side(folder: Path, *scores: float | None, run: RunInfo = RUN, judge: str = "") -> Side:
    return read_side(folder.name, [write(folder, scores, run, judge)])


def test_each_later_run_is_compared_with_the_first_on_the_same_questions(tmp_path: Path) -> None:
    sides = [
        side(tmp_path / "a", 0.0, 0.5, 0.5, 1.0),
        side(tmp_path / "b", 1.0, 0.5, 1.0, 0.5),
        side(tmp_path / "c", 0.0, 0.0, 0.0, 0.0),
    ]
    found = compare(sides)
    assert (found["benchmark"], found["split"], found["n_questions"]) == ("locomo", "test", 4)
    assert [value["mean"] for value in found["overall"]["f1_squad"]] == [0.5, 0.75, 0.0]
    assert [(item["run"], item["less"]) for item in found["differences"]] == [("b", "a"), ("c", "a")]
    better = found["differences"][0]["overall"]["f1_squad"]
    # Differences 1, 0, 0.5, -0.5; two wins against one loss: p = 1.
    assert (better["difference"], better["wins"], better["losses"], better["ties"]) == (0.25, 2, 1, 1)
    assert (better["p_value"], better["interval"]) == (1.0, "within-dialogue")
    assert better["low"] < 0.25 < better["high"]
    assert found["differences"][1]["overall"]["f1_squad"]["difference"] == -0.5
    # Category 1 is q0 and q2: (1 + 0.5) / 2; category 2 is q1 and q3: (0 - 0.5) / 2.
    by_category = found["differences"][0]["by_category"]
    assert {name: (row["n"], row["f1_squad"]["difference"]) for name, row in by_category.items()} == {
        "1": (2, 0.75),
        "2": (2, -0.25),
    }
    assert by_category["1"]["names"] == {"locomo": "multi-hop"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_seeds_are_merged_and_paired_in_order(tmp_path: Path) -> None:
    base = [write(tmp_path / f"a{seed}", [0.0, 0.2], replace(RUN, seed=seed)) for seed in range(2)]
    better = [write(tmp_path / f"b{seed}", [0.2, 0.2 + seed], replace(RUN, seed=seed)) for seed in range(2)]
    found = compare([read_side("a", base), read_side("b", better)])
    assert found["runs"][1]["seeds"] == [0, 1]
    assert [row["mean"] for row in found["overall"]["f1_squad"]] == pytest.approx([0.1, 0.45])
    difference = found["differences"][0]["overall"]["f1_squad"]
    # 0.2 and 0 with the first seed, 0.2 and 1 with the second; both questions gain on average.
    assert difference["difference"] == pytest.approx(0.35)
    assert (difference["wins"], difference["losses"], difference["ties"]) == (2, 0, 0)


def test_a_single_run_is_paired_with_every_seed(tmp_path: Path) -> None:
    seeds = [write(tmp_path / f"b{seed}", [0.5, 1.0 - seed / 2], replace(RUN, seed=seed)) for seed in range(3)]
    found = compare([side(tmp_path / "a", 0.0, 0.5), read_side("b", seeds)])
    # 0.5 each of the first question, 0.5, 0 and -0.5 of the second.
    assert found["differences"][0]["overall"]["f1_squad"]["difference"] == pytest.approx(0.25)
    with pytest.raises(ConfigurationError, match="b has 3 seeds and a has 2"):
        compare([read_side("a", seeds[:2]), read_side("b", seeds)])


def test_one_side_alone_is_merged_without_a_difference(tmp_path: Path) -> None:
    seeds = [write(tmp_path / f"b{seed}", [0.25 * seed], replace(RUN, seed=seed)) for seed in range(3)]
    found = compare([read_side("b", seeds)])
    assert found["overall"]["f1_squad"][0]["mean"] == 0.25
    assert found["differences"] == []


def test_the_same_run_twice_is_no_second_seed(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, [0.5]) for name in ("one", "copy")]
    with pytest.raises(ConfigurationError, match=r"copy is the same run as .*one, not another seed"):
        read_side("a", folders)


@pytest.mark.parametrize(
    ("scores", "run", "message"),
    [
        ([0.5], RUN, "1 questions were asked of one only, such as 'd/q1'"),
        ([0.5, 0.5], replace(RUN, split="validation"), "split is 'test' and 'validation'"),
        ([0.5, 0.5], replace(RUN, benchmark="msc"), "benchmark is 'locomo' and 'msc'"),
        ([0.5, 0.5], replace(RUN, config={"data_sha256": "b"}), "their dialogues differ"),
    ],
)
def test_other_questions_or_dialogues_are_refused(
    tmp_path: Path, scores: list[float], run: RunInfo, message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        compare([side(tmp_path / "a", 0.5, 0.5), side(tmp_path / "b", *scores, run=run)])
    assert "\n" not in str(error.value)


def test_a_metric_that_one_run_lacks_is_left_out_and_said_so(tmp_path: Path) -> None:
    found = compare([side(tmp_path / "a", 0.5, 0.5), side(tmp_path / "b", None, None)])
    assert list(found["overall"]) == ["exact_match"]
    assert found["left_out"] == {"f1_squad": f"not measured in {tmp_path / 'b'}"}


def test_verdicts_of_two_judges_are_not_compared(tmp_path: Path) -> None:
    found = compare([side(tmp_path / "a", 0.5, judge="m"), side(tmp_path / "b", 0.5, judge="n")])
    assert found["left_out"]["judge_lenient"] == "judged by different models: m, n"
    assert "judge" not in found["overall"]
    same = compare([side(tmp_path / "a", 0.5, judge="m"), side(tmp_path / "b", 0.5, judge="m")])
    assert (same["left_out"], same["overall"]["judge"][1]["mean"]) == ({}, 1.0)


def test_an_unfinished_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"empty holds no predictions: finish the evaluation first"):
        side(tmp_path / "empty")
