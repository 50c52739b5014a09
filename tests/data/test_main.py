"""`python -m data` reports intact, damaged and missing files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from data import __main__ as command
from data.downloads import PublishedFile
from memory_r1.entry import run_main
from memory_r1.errors import DataError


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide one small file to fetch, and an empty cache."""
    path = tmp_path / "published.json"
    path.write_text("[1]", encoding="utf-8")
    file = PublishedFile("small.json", path.as_uri(), 3, hashlib.sha256(b"[1]").hexdigest())
    monkeypatch.setattr(command, "FETCHED", {"Small": file})
    monkeypatch.setenv("MEMORY_R1_CACHE", str(tmp_path / "cache"))
    return path


def test_the_cache_is_filled_and_what_is_to_be_brought_is_named(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([]) == 0

    said = capsys.readouterr().out
    assert (tmp_path / "cache" / "data" / "small.json").read_text(encoding="utf-8") == "[1]"
    assert "Small: whole\n" in said
    assert "LongMemEval, S: not here; get https://huggingface.co/" in said
    assert "MSC, official: not here; get https://huggingface.co/datasets/MemGPT/MSC-Self-Instruct and put it" in said
    assert "approximate" not in said  # it cannot be downloaded


def test_a_failed_download_is_an_error_that_says_where_to_get_the_file(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.unlink()

    assert run_main(command.main, []) == 1

    captured = capsys.readouterr()
    assert "Small: " in captured.out and "cannot be downloaded (" in captured.out
    assert f"get {source.as_uri()} by hand and put it there\n" in captured.out
    assert captured.err.startswith("error: ") and "1 of the files above cannot be used" in captured.err


def test_a_folder_is_only_looked_at(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "own"
    (folder / "msc").mkdir(parents=True)

    assert command.main([str(folder)]) == 0
    assert f"Small: not here; get {source.as_uri()} and put it there as small.json" in capsys.readouterr().out
    assert list(folder.iterdir()) == [folder / "msc"]

    (folder / "small.json").write_text("[1]", encoding="utf-8")
    (folder / "longmemeval_s.json").write_text("[]", encoding="utf-8")
    assert command.main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "Small: whole\n" in said
    assert f"LongMemEval, S: there, not verified ({folder / 'longmemeval_s.json'})" in said

    (folder / "small.json").write_text("[2]", encoding="utf-8")
    (folder / "msc" / "msc_qa_matched.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="2 of the files above cannot be used"):
        command.main([str(folder)])
    said = capsys.readouterr().out
    assert "Small: " in said and "changed or another version" in said
    assert "MSC, approximate: questions: " in said and "cut short" in said


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no such folder"):
        command.main([str(tmp_path / "none")])
