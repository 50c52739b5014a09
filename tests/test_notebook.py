"""docs/examples/memory.ipynb runs from top to bottom, and is committed without outputs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from memory_r1.assistant import memory as library
from tests.assistant.memories import scripted_agents

NOTEBOOK = Path(__file__).parents[1] / "docs" / "examples" / "memory.ipynb"


def run_cells(cells: list[dict[str, Any]]) -> list[Any]:
    """Run the code cells in one namespace; return the value of each one's last line, None if it has none."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    values = []
    for cell in cells:
        *body, last = ast.parse("".join(cell["source"])).body
        ends = isinstance(last, ast.Expr)
        rest = ast.Module(body if ends else [*body, last], [])
        exec(compile(rest, NOTEBOOK.name, "exec"), namespace)
        values.append(eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), namespace) if ends else None)
    return values


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    for loader in ("load_agents", "packaged_agents"):
        monkeypatch.setattr(library, loader, lambda *_, **__: scripted_agents())
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    _, told, _, noted, found, answered, others, changes, *_ = run_cells(cells)
    assert told["results"][0]["event"] == "ADD"
    assert noted["memory"] == "Ann is allergic to peanuts." and found and others == {"results": []}
    assert answered[0] and answered[1] and answered[2].endswith("seconds")
    assert [event for event, *_ in changes] == ["ADD", "UPDATE", "UNDO"]
    shown = capsys.readouterr().out
    assert "Ann | I have a dog named Bruno." in shown and "| UPDATE | " in shown
    assert not any(b"Bruno" in path.read_bytes() for path in tmp_path.iterdir())
