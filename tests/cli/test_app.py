"""The `memory-r1` command itself: quick, one-line errors, exit statuses."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from memory_r1.cli import app as application
from memory_r1.cli.app import main
from memory_r1.errors import DataError

ROOT = Path(__file__).parents[2]


def test_help_teaches_and_needs_no_torch() -> None:
    code = (
        "import sys\nfrom memory_r1.cli.app import main\nstatus = main(['--help'])\n"
        "sys.stderr.write(str([status, *({'torch', 'transformers', 'faiss', 'huggingface_hub'} & {*sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == "[0]"
    for command in ("chat", "import", "convert", "merge", "push", "doctor"):
        assert command in done.stdout


def test_the_module_and_the_script_are_the_same_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = scripts["memory-r1"].partition(":")
    assert getattr(import_module(module), function) is main
    done = subprocess.run(
        [sys.executable, "-m", "memory_r1", "no-such"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "no-such" in done.stderr


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path: Path) -> None:
    words = ["convert", str(tmp_path / "absent.json"), str(tmp_path / "own.jsonl")]
    assert main(words) == 1
    for arguments in (["--debug", *words], [*words, "--debug"]):
        with pytest.raises(DataError):
            main(arguments)


def test_an_interrupt_is_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(application.app, "registered_commands", [*application.app.registered_commands])
    application.app.command("wait")(interrupt)
    assert main(["wait"]) == 130
    assert capsys.readouterr().err.endswith("interrupted\n")
