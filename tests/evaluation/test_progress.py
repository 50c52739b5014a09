"""Progress of long work without a terminal that redraws bars."""

from __future__ import annotations

import pytest

from memory_r1.evaluation.progress import progress_bars


def test_without_a_terminal_a_line_is_written_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars(True) as bars:
        task = bars.add_task("questions", total=200, completed=100)
        for _ in range(100):
            bars.advance(task)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"questions {done}/200" for done in range(110, 201, 10)]
    assert "minutes left" in lines[-1]


def test_nothing_is_written_where_nothing_is_to_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars(False) as bars:
        bars.advance(bars.add_task("questions", total=1))
    assert capsys.readouterr().err == ""
