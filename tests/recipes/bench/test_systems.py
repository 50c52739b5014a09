"""The benchmark of growing memory systems, on a few turns."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from memory_r1.entry import run_main
from memory_r1.jsonl import read_json
from memory_r1.systems.table import SYSTEMS
from memory_r1.systems.triples import triples_by_rules
from recipes import figures, verify_results
from recipes.bench import playing, scripted, systems
from recipes.renderers import RENDERERS


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_can_be_played(name: str) -> None:
    """Two sessions of scripted turns go into each system, and what it recalls is about them."""
    system = playing.new_system(name)
    said = list(itertools.islice(scripted.turns(), 40))
    for number, turn in enumerate(said, start=1):
        system.observe(turn, "user")
        if number % scripted.SESSION_TURNS == 0:
            system.end_session("user", turn.timestamp)
    recalled = system.recall(f"Who knows {scripted.name_of(0)}?", "user", said[-1].timestamp)
    known = {turn.turn_id for turn in said}
    assert bool(recalled.items) == (name not in ("none", "oracle"))
    assert {turn_id for entry in recalled.items for turn_id in entry.source_turn_ids} <= known


def test_scripted_turns_grow_as_told() -> None:
    """The rules find one fact a turn, entities follow Heaps' law, and the same seed gives the same turns."""
    said = list(itertools.islice(scripted.turns(), 1000))
    facts = [triples_by_rules(turn) for turn in said]
    assert {len(found) for found in facts} == {1}
    assert [len({found.object for (found,) in facts[:count]}) for count in (100, 1000)] == [
        scripted.entities_after(100),
        scripted.entities_after(1000),
    ]
    assert len({turn.session_id for turn in said}) == 1000 / scripted.SESSION_TURNS
    assert said == list(itertools.islice(scripted.turns(), 1000))
    rows = scripted.HashedEmbedder().embed(["Ann met Tabo Rilesu.", "Ann met Tabo.", "Something else entirely"])
    assert rows.shape == (3, scripted.DIMENSION)
    assert rows[0] @ rows[1] > 0.7 > 0.3 > abs(rows[0] @ rows[2])


def test_a_run_is_recorded_continued_drawn_and_rendered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, output = tmp_path / "results", tmp_path / "bench"
    arguments = ["--systems", "bm25", "--output", str(output), "--results", str(results), "--sizes"]
    assert run_main(systems.main, [*arguments, "20"]) == 0
    first = read_json(output / "systems.json")
    assert run_main(systems.main, [*arguments, "40", "20"]) == 0
    record = read_json(results / "bench-systems.json")
    assert record == read_json(output / "systems.json")
    assert record["rows"][0] == first["rows"][0]  # not measured again
    assert [(row["system"], row["turns"], row["played"], row["entries"]) for row in record["rows"]] == [
        ("bm25", 20, 20, 20),
        ("bm25", 40, 40, 40),
    ]
    for row in record["rows"]:
        assert "stopped" not in row and all(row[key] > 0 for key in systems.MEASURED if key != "peak_bytes")
        assert row["recall_p95"] >= row["recall_p50"]
        indexed = row["write_seconds"] + row["first_recall_seconds"]
        assert row["index_seconds_per_1000"] == pytest.approx(1000 * indexed / row["turns"])

    capsys.readouterr()
    assert run_main(figures.main, ["--results", str(results)]) == 0
    assert capsys.readouterr().out.split() == [str(results / "bench-systems.png")]
    assert (results / "bench-systems.png").read_bytes().startswith(b"\x89PNG")
    titles, _, line = RENDERERS["growth"](results).splitlines()
    assert titles.startswith("| 20 / 40 turns | index, s per 1,000 turns | recall, median, ms | peak memory, MiB |")
    assert line.startswith("| `bm25` | ") and line.endswith(" | 20 / 40 |")

    assert run_main(systems.main, [*arguments, "20", "--minutes", "3"]) == 1
    assert "holds figures of another configuration (minutes differ)" in capsys.readouterr().err


def test_what_takes_too_long_or_too_much_is_told_and_larger_sizes_are_not_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    arguments = ["--systems", "bm25", "--output", str(tmp_path), "--results", str(results), "--sizes"]
    arguments += ["1000000", "2000000", "--minutes"]
    assert run_main(systems.main, [*arguments, "0.05"]) == 0
    assert "bm25: 2,000,000 turns are not tried" in capsys.readouterr().out
    (row,) = read_json(tmp_path / "systems.json")["rows"]
    assert row["stopped"] == "after 0.05 minutes"
    assert 0 < row["played"] < 1_000_000 and row["turns_per_second"] > 0
    assert row["write_seconds"] is None and row["recall_p50"] is None
    told = RENDERERS["growth"](results).splitlines()[-1]
    assert told.startswith(f"`bm25` was stopped after 0.05 minutes, having played {row['played']:,} of 1,000,000 turns")

    assert run_main(systems.main, [*arguments, "1", "--gigabytes", "0.004", "--restart"]) == 0
    (row,) = read_json(tmp_path / "systems.json")["rows"]
    assert row["stopped"] == "at 0.004 GiB" and row["peak_bytes"] > 0.004 * 2**30


def test_the_last_rate_covers_the_turn_in_which_it_was_stopped() -> None:
    reports = [(100, 1.0), (200, 2.0), (290, 9.0), (300, 9.5)]
    assert playing.rate(reports, 10.0) == pytest.approx((300 - 290) / (10 - 9))
    assert playing.rate(reports, 100.0) == pytest.approx(0)  # hung since
    assert playing.rate([], 10.0) is None


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--systems", "cloud"], "memory system 'cloud' is unknown"),
        (["--sizes", "0"], "--sizes has 0: give whole numbers from 1"),
        (["--minutes", "0"], "--minutes is 0: give a number above 0"),
        (["--gigabytes", "nan"], "--gigabytes is nan: give a number above 0"),
    ],
)
def test_wrong_options_are_refused(wrong: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(systems.main, wrong) == 1
    assert told in capsys.readouterr().err


def test_without_a_record_the_table_says_so_and_only_spans_of_the_document_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    document = verify_results.SPANS_ONLY
    document.parent.mkdir()
    document.write_text("Took 3.5 s.\n\n<!-- growth -->\n*Not run yet.*\n<!-- end -->\n", encoding="utf-8")
    assert run_main(verify_results.main, [str(document)]) == 0
    results = Path("docs/results")
    results.mkdir()
    row = {
        "system": "rag",
        "turns": 10,
        "played": 10,
        **dict.fromkeys([*systems.MEASURED, "index_seconds_per_1000"], 0.5),
    }
    (results / "bench-systems.json").write_text(json.dumps({"rows": [row]}), encoding="utf-8")
    assert run_main(verify_results.main, [str(document)]) == 1
    assert "'*Not run yet.*' stands there, `growth` gives" in capsys.readouterr().out
    assert run_main(verify_results.main, [str(document), "--write"]) == 0
    assert "| `rag` | 0.5 | 500 |" in document.read_text(encoding="utf-8")
