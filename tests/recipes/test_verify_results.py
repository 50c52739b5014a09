"""The documents hold what the committed records give, and a figure that differs is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_r1.entry import run_main
from memory_r1.evaluation.scoring.results import compute_results
from memory_r1.jsonl import read_json
from recipes import export_results, reproduce, task_graph, verify_results
from recipes.renderers import RENDERERS, seeds
from tests.fake_runs import LOOP_SECONDS, FakeCommands, write_evaluation

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
EXPERIMENTS = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with the records of two seeds, made by stand-ins for the commands."""
    monkeypatch.setattr(task_graph, "POLL_SECONDS", 0.0)
    for seed in ("0", "1"):
        monkeypatch.setattr(task_graph, "start", FakeCommands().start)
        assert reproduce.main(["--seed", seed, "--folder", str(tmp_path / seed), "--results", str(tmp_path)]) == 0
    return tmp_path


def lines(text: str) -> list[list[str]]:
    """The cells of a Markdown table without the line below its titles."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [rows[0], *rows[2:]]


def verify(document: Path, *options: str, results: Path = RESULTS) -> int:
    return run_main(verify_results.main, [str(document), "--results", str(results), *options])


def test_every_figure_of_the_documents_is_what_the_records_give(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    status = run_main(verify_results.main, [])
    assert (status, capsys.readouterr().out) == (0, "")


@pytest.mark.parametrize("stands", ["| rag | 0.141 (", "-->+0.061 (-0.002 to +0.126)<!--"])
def test_a_changed_figure_is_told_and_mended(stands: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tmp_path / "experiments.md"
    changed = stands.replace("0.141", "0.191").replace("+0.061", "+0.161")
    assert stands in EXPERIMENTS
    document.write_text(EXPERIMENTS.replace(stands, changed), encoding="utf-8")
    line = 1 + EXPERIMENTS[: EXPERIMENTS.index(stands)].count("\n")
    assert verify(document) == 1
    [told] = capsys.readouterr().out.splitlines()
    assert told.startswith(f"{document}:{line}: ")
    figures = ("0.191", "0.141") if "rag" in stands else ("+0.161", "+0.061")
    assert told.index(figures[0]) < told.index(figures[1])
    assert "make verify-results ARGS=--write" in told
    assert verify(document, "--write") == 0
    assert document.read_text(encoding="utf-8") == EXPERIMENTS


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("F1 rose\nto 0.351.\n", ":2: '0.351' stands outside a generated span"),
        ("F1 rose to 0.41\n", ":1: '0.41' stands outside"),
        ("by +0.2345\n", ":1: '+0.2345' stands outside"),
        ("to _0.400_\n", ":1: '0.400' stands outside"),
        ("to .351\n", ":1: '.351' stands outside"),
        ("[in 13.2 minutes](https://a.b/1.5)\n", ":1: '13.2' stands outside"),
        ("in 41% of questions\n", ":1: '41%' stands outside"),
        ("95% of questions\n", ":1: '95%' stands outside"),
        ("`a\nb` gave 0.41 `c`\n", ":2: '0.41' stands outside"),
        ("a <!-- value demo-seed0 summary/stages/name=dpo/f1_squad -->1<!-- end -->", "no 'name=dpo'"),
        ("a <!-- value demo-seed0 -->1<!-- end -->", ":1: `value demo-seed0`: "),
        ("a <!-- value no-such x -->1<!-- end -->", "no-such.json"),
        ("a <!-- tabel both/0 -->1<!-- end -->", "no renderer 'tabel'; there is: table, "),
        ("a <!-- exports no_metric cpu-seed0 -->1<!-- end -->", "`exports no_metric cpu-seed0`: no 'questions'; "),
        ("a <!-- value demo-seed0 summary/wall_seconds zz -->1<!-- end -->", "Unknown format code"),
        ("a <!-- rows cpu-seed0 tables/both row -->1<!-- end -->", "a column is title=path[:format], not 'row'"),
        ("a <!-- value cpu-seed0 'tables -->1<!-- end -->", "No closing quotation"),
        (
            "a <!-- difference f1_mem0 locomo-validation-rag msc-approximate60-rag -->1<!-- end -->",
            ":1: `difference f1_mem0 locomo-validation-rag msc-approximate60-rag`: ",
        ),
        ("<!-- table both/7 -->\n<!-- end -->\n", "no table 'both/7'; there is: answer/0, "),
        ("a <!-- value demo-seed0 summary -->1\n\nb", ":1: a comment that opens or ends no span"),
    ],
)
def test_what_no_record_gives_is_told(text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert verify(tmp_path / "page.md") == 1
    [line] = capsys.readouterr().out.splitlines()
    assert told in line


def test_settings_and_code_are_no_figures(tmp_path: Path) -> None:
    text = "`cost: 0.002`, `a\n--b 0.2`, [paper](https://a.b/2508.19828), 95%\nintervals, Apache-2.0\n```\n0.123\n```\n"
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    assert verify(tmp_path / "page.md") == 0


@pytest.mark.parametrize(
    ("call", "stood", "stands", "told"),
    [
        (
            "rows cpu-seed0 tables/both row=row less=f1_less_sft-continued",
            '"difference": -0.0861',
            '"difference": 0.386',
            "cpu-seed0.json: tables/manager/row=sft/f1_less_sft-continued: ",
        ),
        (
            "value cpu-seed0 tables/both/row=sft/f1_squad",
            '"low": 0.2638',
            '"low": 0.9',
            "f1_squad: its mean +0.317 is ",
        ),
        ("value cpu-seed0 tables/both/row=sft/row", '"mean": 0.3173', '"mean": 0.3103', "less_sft-continued: "),
        (
            "value demo-seed0-weekdays f1_grpo_less_sft",
            '"difference": 0.01306',
            '"difference": 0.03306',
            "f1_grpo_less_sft: its difference is +0.033, of the means +0.013",
        ),
        (
            'value demo-seed0-before "f1_squad_differences/grpo less sft"',
            '"mean": 0.3956',
            '"mean": 0.3856',
            "grpo less ",
        ),
        (
            'value demo-seed0-before "fresh_dialogues_seed1/grpo less sft"',
            '"mean": 0.25,',
            '"mean": 0.26,',
            "fresh_dialogues_seed1/grpo less sft: ",
        ),
    ],
)
def test_a_record_that_contradicts_itself_is_not_copied(
    call: str, stood: str, stands: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = call.split()[1]
    record = (RESULTS / f"{name}.json").read_text(encoding="utf-8")
    assert stood in record
    (tmp_path / f"{name}.json").write_text(record.replace(stood, stands), encoding="utf-8")
    (tmp_path / "page.md").write_text(f"a <!-- {call} -->1<!-- end -->", encoding="utf-8")
    assert verify(tmp_path / "page.md", "--write", results=tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: `{call}`: ") and told in error and error.count("\n") == 1


def test_tables_cover_the_seeds_present(published: Path) -> None:
    titles, *rows = lines(RENDERERS["table"](published, "both/0"))
    assert titles[-1] == "GRPO less this"
    scores = {row[0]: row[1:] for row in rows}
    # Three of four questions right with GRPO, one with SFT; the base model is of seed 0 alone.
    assert [scores[row][0] for row in ("untrained", "SFT", "GRPO")] == ["1", "2", "2"]
    assert scores["SFT"][2].startswith("0.250 (") and scores["GRPO"][2].startswith("0.750 (")
    assert scores["SFT"][3].startswith("+0.500 (") and scores["GRPO"][3] == ""
    titles, *rows = lines(RENDERERS["categories"](published, "both/0"))
    assert titles[1:] == ["recall"] and ["SFT", "0.250"] in rows and ["GRPO", "0.750"] in rows


def test_training_tells_cost_and_validation_of_each_seed(published: Path) -> None:
    titles, *rows = lines(RENDERERS["training"](published))
    costs = {row[0]: dict(zip(titles[1:], row[1:], strict=True)) for row in rows}
    assert costs["`manager_grpo`"] == {
        "seeds": "0; 1",
        "steps": "10; 10",
        "completions": "640; 640",
        "CPU seconds": f"{LOOP_SECONDS['grpo']:.0f}; {LOOP_SECONDS['grpo']:.0f}",
        "validation, start to best": "0.250 to 0.500; 0.250 to 0.500",
    }
    assert costs["`manager_gold`"]["seeds"] == "0"


def test_tables_without_a_record_say_so(tmp_path: Path) -> None:
    assert seeds(tmp_path) == []
    calls = [("table", "answer/0"), ("categories", "systems/0"), ("training",)]
    assert {RENDERERS[name](tmp_path, *words) for name, *words in calls} == {"*Not run yet.*"}


def test_exports_are_recomputed_from_their_questions(tmp_path: Path) -> None:
    runs = {"rag": "answer_sft", "memory-r1": "answer_grpo"}
    for system, answer in runs.items():
        write_evaluation(tmp_path / system, system, answer)
        assert export_results.main([str(tmp_path / system), "--output", str(tmp_path / f"{system}.json")]) == 0
    titles, first, ours = lines(RENDERERS["exports"](tmp_path, "f1_squad,exact_match", "memory-r1", "plain=rag"))
    assert titles[1:3] == ["F1 (SQuAD)", "exact match"] and titles[-1] == "memory-r1 less this"
    overall = compute_results(tmp_path / "rag")["overall"]["f1_squad"]
    assert first[:3] == ["plain", f"0.250 ({overall['low']:.3f} to {overall['high']:.3f})", "0.250"]
    assert ours[0] == "memory-r1" and ours[-1] == ""
    difference = RENDERERS["difference"](tmp_path, "f1_squad", "memory-r1", "rag")
    assert difference.startswith("+0.500 (") and first[-1] == difference


def test_published_intervals_are_those_of_the_evaluations() -> None:
    for path in RESULTS.glob("*-validation-*.json"):
        overall = read_json(path)["results"]["overall"]["f1_mem0"]
        shown = RENDERERS["exports"](RESULTS, "f1_mem0", path.stem)
        assert f"{overall['mean']:.3f} ({overall['low']:.3f} to {overall['high']:.3f})" in shown
