"""A published evaluation has every figure and no text of its data."""

from __future__ import annotations

from pathlib import Path

from memory_r1.evaluation.records import RESULTS, read_predictions
from memory_r1.jsonl import read_json
from recipes.export_results import main
from tests.fake_runs import write_evaluation


def test_figures_and_ids_are_published_and_texts_are_not(tmp_path: Path) -> None:
    folder, output = tmp_path / "run", tmp_path / "published" / "run.json"
    write_evaluation(folder, "memory-r1", None)
    assert main([str(folder), "--output", str(output)]) == 0
    published = read_json(output)
    assert published["results"]["overall"] == read_json(folder / RESULTS)["overall"]
    rows = read_predictions(folder)
    assert [row["question_id"] for row in published["questions"]] == [row.question_id for row in rows]
    text = output.read_text(encoding="utf-8")
    said = {part for row in rows for part in (row.question, row.gold, row.prediction) if part}
    assert said
    assert not [part for part in said if f'"{part}"' in text]
