"""Systems are evaluated in turn under the same options, then compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from memory_r1.adapter_settings import SUMMARY
from memory_r1.errors import ConfigurationError
from memory_r1.jsonl import write_json
from memory_r1.systems.table import SYSTEMS
from recipes import compare_systems


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    run: list[tuple[str, ...]] = []
    monkeypatch.setattr(compare_systems, "run_python", lambda *arguments: run.append(arguments))
    return run


def test_every_system_gets_the_same_options_and_a_folder_of_its_own(
    commands: list[tuple[str, ...]], tmp_path: Path
) -> None:
    arguments = ["--benchmark=locomo", "--systems", "rag", "memory-r1", "--manager=m", f"--output={tmp_path}"]
    assert compare_systems.main([*arguments, "--answer=a", "--limit", "3"]) == 0
    common = ("--answer=a", "--limit", "3")
    assert commands == [
        ("recipes/evaluate.py", "--benchmark=locomo", "--system=rag", f"--output={tmp_path / 'rag'}", *common),
        (
            "recipes/evaluate.py",
            "--benchmark=locomo",
            "--system=memory-r1",
            f"--output={tmp_path / 'memory-r1'}",
            "--manager=m",
            *common,
        ),
        ("recipes/compare.py", str(tmp_path / "rag"), str(tmp_path / "memory-r1"), f"--output={tmp_path}"),
    ]


def test_all_systems_are_compared_unless_some_are_named(commands: list[tuple[str, ...]], tmp_path: Path) -> None:
    (tmp_path / "queries.safetensors").touch()
    compare_systems.main(["--benchmark=synthetic", f"--weaver={tmp_path}"])
    assert [command for command in commands if f"--weaver={tmp_path}" in command] == [
        commands[list(SYSTEMS).index("latent-tokens")]
    ]
    assert [command[2] for command in commands[:-1]] == [f"--system={name}" for name in SYSTEMS]
    assert commands[-1][0] == "recipes/compare.py"


def test_memory_tokens_without_a_trained_weaver_are_left_out_unless_they_are_named(
    commands: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    compare_systems.main(["--benchmark=synthetic", "--model=other"])
    assert [command[2] for command in commands[:-1]] == [
        f"--system={name}" for name in SYSTEMS if name != "latent-tokens"
    ]
    assert "make train-latent-tokens" in " ".join(capsys.readouterr().out.split())
    commands.clear()
    with pytest.raises(ConfigurationError, match=r"needs a trained weaver: run make train-latent-tokens.*--weaver"):
        compare_systems.main(["--benchmark=synthetic", "--systems", "none", "latent-tokens"])
    assert commands == []


def test_a_system_without_a_manager_is_as_precise_as_those_with_one(
    commands: list[tuple[str, ...]], tmp_path: Path
) -> None:
    manager, answer = tmp_path / "manager", tmp_path / "answer"
    write_json(manager / SUMMARY, {"agent": "manager", "settings": {"dtype": "bfloat16", "embedder": "own"}})
    arguments = ["--benchmark=synthetic", "--systems", "rag", "memory-r1", f"--manager={manager}"]
    compare_systems.main(arguments)
    rag, managed = commands[:2]
    assert {"--dtype=bfloat16", "--embedder=own"} <= set(rag)
    assert not any(option.startswith("--dtype") for option in managed)  # there the adapter says it

    commands.clear()
    compare_systems.main([*arguments, "--dtype=float16"])
    given = [[option for option in command if "--dtype" in option] for command in commands[:2]]
    assert given == [["--dtype=float16"]] * 2

    commands.clear()
    write_json(answer / SUMMARY, {"agent": "answer", "settings": {"dtype": "float32"}})
    with pytest.raises(ConfigurationError, match="--dtype"):
        compare_systems.main([*arguments, f"--answer={answer}"])
    assert commands == []


def test_a_manager_plays_only_the_systems_whose_operations_it_writes(
    commands: list[tuple[str, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    managers = {form: tmp_path / form for form in ("flat", "graph")}
    for form, folder in managers.items():
        write_json(folder / SUMMARY, {"agent": "manager", "settings": {"operations": form}})
    write_json(tmp_path / "old" / SUMMARY, {"agent": "manager", "settings": {"dtype": "float32"}})
    for folder in (managers["flat"], tmp_path / "old"):
        commands.clear()
        compare_systems.main(["--benchmark=synthetic", f"--manager={folder}"])
        assert not any("--system=memory-r1-graph" in command for command in commands)
        assert "left out: " in capsys.readouterr().out
    commands.clear()
    compare_systems.main(["--benchmark=synthetic", "--systems", "memory-r1-graph", f"--manager={managers['graph']}"])
    assert "--system=memory-r1-graph" in commands[0]
    with pytest.raises(ConfigurationError, match="writes graph operations, but memory system 'memory-r1' needs flat"):
        compare_systems.main(["--benchmark=synthetic", "--systems", "memory-r1", f"--manager={managers['graph']}"])


def test_one_system_has_nothing_to_be_compared_with(commands: list[tuple[str, ...]]) -> None:
    compare_systems.main(["--benchmark=synthetic", "--systems", "none"])
    assert [command[0] for command in commands] == ["recipes/evaluate.py"]


def test_a_mistyped_system_is_said_before_any_is_run(commands: list[tuple[str, ...]]) -> None:
    with pytest.raises(ConfigurationError, match="ragg"):
        compare_systems.main(["--benchmark=synthetic", "--systems", "none", "ragg"])
    assert commands == []


def test_a_writer_goes_to_the_systems_that_write(commands: list[tuple[str, ...]]) -> None:
    compare_systems.main(["--benchmark=synthetic", "--systems", "rag", "memorybank", "--writer=base"])
    assert ["--writer=base" in command for command in commands] == [False, True, False]


def test_an_untrained_manager_is_compared_without_the_adapter(commands: list[tuple[str, ...]]) -> None:
    arguments = ["--benchmark=locomo", "--systems", "prompted-manager", "memory-r1", "--manager=m"]
    compare_systems.main(arguments)
    given = ["--manager=m" in command for command in commands[:2]]
    assert given == [False, True]
