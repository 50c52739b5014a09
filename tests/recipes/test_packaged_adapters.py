"""A trained pair is put into the package, and evaluations that name no adapter use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file

from memory_r1 import packaged_adapters
from memory_r1.dialogue_file import write_dialogues
from memory_r1.entry import run_main
from memory_r1.jsonl import read_json, write_json
from memory_r1.models import adapter_hash, check_adapter
from memory_r1.training.runs import base_model_record, save_adapter
from recipes import benchmarks, compare_systems, evaluate, evaluation_options, package_adapters
from recipes.commands import evaluation
from recipes.evaluation_options import complete
from recipes.records import evaluation_record, questions_of
from tests.fake_runs import write_evaluation
from tests.small_runs import dialogues
from tests.tiny import embedder_folder, load_base, load_tokenizer, with_lora

AGENTS = ("manager", "answer")
SETTINGS = {"recall_per_speaker": 1, "max_new_tokens": 4, "dtype": "bfloat16", "embedder": embedder_folder()}


def train(base: Path, runs: Path, name: str, method: str, seed: int, **recipe: Any) -> None:
    """Write the folder of a finished run with a random adapter."""
    summary = {
        "agent": name.split("_")[0],
        "method": method,
        "recipe": recipe,
        "settings": SETTINGS,
        "loss": "dapo",
        "base_model": base_model_record(str(base), str(base)),
        "steps": 40,
        "seed": 0,
        "trainable_parameters": 1234,
        "wall_seconds": 12.5,
        "train_rows": 402,
        "first_reward": 0.25,
        "last_reward": 0.5,
        "best_validation": 0.5,
        "git_revision": "abc",
        "log_history": [{"loss": 0.1, "step": 1}],
    }
    save_adapter(with_lora(load_base(base), seed), load_tokenizer(base), runs / name, summary)


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of recipes/reproduce.py: the pair, what it started from, and the record."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, agent in enumerate(AGENTS):
        train(tiny_model, folder, f"{agent}_sft", "sft", seed)
        start = folder / f"{agent}_sft"
        train(tiny_model, folder, f"{agent}_grpo", "grpo", seed + 2, dataset="everyday", warm_start=str(start))
    evaluations = {}
    for row in ("sft", "grpo"):
        evaluated = folder / "eval" / row
        write_evaluation(evaluated, "memory-r1", f"answer_{row}")
        evaluations[f"memory-r1.{row}.{row}"] = evaluation_record(evaluated)
    record = {"seed": 0, "training": {}, "questions": questions_of(evaluated), "evaluations": evaluations}
    write_json(folder / "everyday-seed0.json", record)
    return folder


@pytest.fixture
def tiny_is_embedded(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tiny model stand for the embedded one."""
    monkeypatch.setattr(packaged_adapters, "MODELS", (str(tiny_model), "someone/tiny-llama"))
    monkeypatch.setattr(package_adapters, "BASE_MODEL", str(tiny_model))
    for module in (evaluation_options, benchmarks):
        monkeypatch.setattr(module, "DEFAULT_MODEL", str(tiny_model))


@pytest.fixture
def packaged(runs: Path, packaged_folder: Path, tiny_is_embedded: None) -> Path:
    """Package the pair of `runs`, and return the folder with both adapters."""
    assert run_main(package_adapters.main, [str(runs), f"--output={packaged_folder}"]) == 0
    return packaged_folder


class TestPackaging:
    def test_the_pair_is_rounded_and_loads_with_peft(self, packaged: Path, runs: Path, tiny_model: Path) -> None:
        for agent in AGENTS:
            folder = packaged / agent
            assert {path.name for path in folder.iterdir()} == {
                *("adapter_config.json", "adapter_model.safetensors", "README.md", "training_summary.json")
            }
            trained = load_file(runs / f"{agent}_grpo" / "adapter_model.safetensors")
            stored = load_file(folder / "adapter_model.safetensors")
            assert stored.keys() == trained.keys()
            assert all(torch.equal(value, trained[name].to(torch.bfloat16)) for name, value in stored.items())
            check_adapter(folder, str(tiny_model))

            ids = torch.tensor([[5, 6, 7]])
            rounded = with_lora(load_base(tiny_model)).eval()
            rounded.load_state_dict(
                {name.replace(".weight", ".default.weight"): value for name, value in stored.items()}, strict=False
            )
            with torch.no_grad():
                expected = rounded(input_ids=ids).logits
                loaded = PeftModel.from_pretrained(load_base(tiny_model), folder)
                assert torch.equal(loaded(input_ids=ids).logits, expected)
                config = read_json(folder / "adapter_config.json") | {"base_model_name_or_path": str(tiny_model)}
                write_json(folder / "adapter_config.json", config)
                alone = AutoPeftModelForCausalLM.from_pretrained(folder)
                assert torch.equal(alone(input_ids=ids).logits, expected)

    def test_no_path_and_no_log_goes_with_them(self, packaged: Path, runs: Path) -> None:
        for agent in AGENTS:
            config = read_json(packaged / agent / "adapter_config.json")
            assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
            summary = read_json(packaged / agent / "training_summary.json")
            assert "log_history" not in summary and summary["recipe"] == {"dataset": "everyday"}
            texts = [path.read_text() for path in (packaged / agent).iterdir() if path.suffix in (".json", ".md")]
            assert not [text for text in texts if str(runs) in text]

    def test_the_card_tells_what_it_is_worth(self, packaged: Path, tiny_model: Path) -> None:
        card = (packaged / "answer" / "README.md").read_text()
        for said in (
            "license: apache-2.0",
            str(base_model_record(str(tiny_model), "x")["weights_sha256"]),
            "| `answer_sft` | SFT | `synthetic` | 402 | 40 |\n| `answer_grpo` | GRPO | `everyday` | 402 | 40 |",
            "| `max_new_tokens` | 4 |",
            "| SFT | 1 | 0.250 | 0.250 (0.000 to 0.750) | +0.500 (",
            "PeftModel.from_pretrained(",
        ):
            assert said in card

    def test_without_a_record_the_card_has_no_scores(self, runs: Path, tiny_is_embedded: None, tmp_path: Path) -> None:
        alone = tmp_path / "runs"
        shutil.copytree(runs, alone)
        (alone / "everyday-seed0.json").unlink()
        assert run_main(package_adapters.main, [str(alone), f"--output={tmp_path / 'out'}"]) == 0
        assert "Scores" not in (tmp_path / "out" / "manager" / "README.md").read_text()

    def test_a_pair_above_the_limit_is_refused_whole(
        self,
        runs: Path,
        tiny_is_embedded: None,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        output = tmp_path / "out"
        size = (runs / "manager_grpo" / "adapter_model.safetensors").stat().st_size  # in float32: as the pair
        monkeypatch.setattr(package_adapters, "LIMIT_BYTES", size * 3 // 4)
        assert run_main(package_adapters.main, [str(runs), f"--output={output}"]) == 1
        assert "lower lora_r" in capsys.readouterr().err
        assert not output.exists()

    def test_a_pair_on_another_base_model_is_refused(
        self, runs: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = tmp_path / "other"
        shutil.copytree(tiny_model, other)
        (other / "model.safetensors").unlink()
        model = load_base(tiny_model)
        model.lm_head.weight.data.mul_(2)
        model.save_pretrained(other)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(package_adapters, "BASE_MODEL", str(other))
            assert run_main(package_adapters.main, [str(runs), f"--output={tmp_path / 'out'}"]) == 1
        assert "was trained on" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def completed(*arguments: object) -> Any:
    return complete(evaluate.parse_arguments(["--benchmark=synthetic", *map(str, arguments)]))


class TestPackagingAWriter:
    def test_it_goes_beside_the_pair_and_is_counted_apart(
        self,
        runs: Path,
        tiny_is_embedded: None,
        tiny_model: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        train(tiny_model, tmp_path / "own", "writer_sft", "sft", 9, dataset="synthetic")
        pair = 2 * (runs / "manager_grpo" / "adapter_model.safetensors").stat().st_size  # in float32
        monkeypatch.setattr(package_adapters, "LIMIT_BYTES", pair)  # the three together would exceed it
        output = tmp_path / "out"
        arguments = [str(runs), f"--output={output}", f"--writer={tmp_path / 'own' / 'writer_sft'}"]
        assert run_main(package_adapters.main, arguments) == 0
        printed = capsys.readouterr().out
        assert f"{output}: manager and answer " in printed and f"{output}: writer " in printed
        trained = load_file(tmp_path / "own" / "writer_sft" / "adapter_model.safetensors")
        stored = load_file(output / "writer" / "adapter_model.safetensors")
        assert all(torch.equal(value, trained[name].to(torch.bfloat16)) for name, value in stored.items())
        card = (output / "writer" / "README.md").read_text()
        assert "`make train-writer-sft`" in card and "| `writer_sft` | SFT | `synthetic` | 402 | 40 |" in card
        assert "everyday" not in card

    def test_the_folder_of_runs_may_hold_it(
        self, runs: Path, tiny_is_embedded: None, tiny_model: Path, tmp_path: Path
    ) -> None:
        own = tmp_path / "runs"
        shutil.copytree(runs, own)
        train(tiny_model, own, "writer_sft", "sft", 9, dataset="synthetic")
        assert run_main(package_adapters.main, [str(own), f"--output={tmp_path / 'out'}"]) == 0
        assert {path.name for path in (tmp_path / "out").iterdir()} == {*AGENTS, "writer"}

    def test_another_agents_adapter_is_refused_whole(
        self, runs: Path, tiny_is_embedded: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [str(runs), f"--output={tmp_path / 'out'}", f"--writer={runs / 'manager_sft'}"]
        assert run_main(package_adapters.main, arguments) == 1
        assert "which is the adapter of the manager agent" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


class TestEvaluations:
    @pytest.fixture
    def played(self, tmp_path: Path, tiny_model: Path) -> Iterator[Any]:
        """Return a function that evaluates the tiny model on own dialogues and returns the run's record."""
        write_dialogues(tmp_path / "own.jsonl", dialogues()[1:])
        common = ["--benchmark=dialogues", f"--file={tmp_path / 'own.jsonl'}", f"--model={tiny_model}", "--quiet"]
        common += [f"--embedder={embedder_folder()}", f"--output={tmp_path / 'run'}"]

        def play(*arguments: str) -> Any:
            assert run_main(evaluate.main, [*common, *arguments]) == 0
            return SimpleNamespace(**read_json(tmp_path / "run" / "results.json"))

        yield play

    def test_who_names_no_adapter_gets_the_packaged_pair_and_is_told(
        self, packaged: Path, played: Any, tmp_path: Path, caplog: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        results = played()
        assert (results.manager, results.answer) == ("packaged", "packaged")
        for agent in AGENTS:
            assert results.config[f"{agent}_sha256"] == adapter_hash(packaged / agent)
        assert results.config["dtype"] == "bfloat16"
        said = "no adapter is named for manager and answer: using what comes with the package"
        assert caplog.text.count(said) == 1
        assert str(packaged) not in json.dumps(read_json(tmp_path / "run" / "run.json"))
        # The untrained model is another run.
        arguments = ["--benchmark=dialogues", f"--file={tmp_path / 'own.jsonl'}", f"--output={tmp_path / 'run'}"]
        arguments += [f"--embedder={embedder_folder()}", "--manager=base", "--answer=base", "--quiet"]
        assert run_main(evaluate.main, arguments) == 1
        assert 'answer was "packaged", is null' in capsys.readouterr().err

    def test_base_is_the_untrained_model_and_nothing_is_said(self, packaged: Path, played: Any, caplog: Any) -> None:
        results = played("--manager=base", "--answer=base", "--manager-tokens=4", "--answer-tokens=4")
        assert (results.manager, results.answer) == (None, None)
        assert not {"manager_sha256", "answer_sha256"} & set(results.config)
        assert "no adapter is named" not in caplog.text

    def test_an_installation_without_the_pair_says_so(
        self, tiny_is_embedded: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level("INFO"):
            options = completed("--system=rag")
        assert (options.manager, options.answer) == (None, None)
        assert "for answer and none comes with this installation: using the untrained base model" in caplog.text

    @pytest.mark.parametrize("named", AGENTS)
    def test_a_named_adapter_is_never_paired_with_a_packaged_one(
        self, packaged: Path, tmp_path: Path, named: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_json(tmp_path / "training_summary.json", {"settings": {"dtype": "float32"}})  # the pair's is bfloat16
        with caplog.at_level("INFO"):
            options = completed(f"--{named}={tmp_path}")
        (unnamed,) = {*AGENTS} - {named}
        assert (getattr(options, named), getattr(options, unnamed)) == (str(tmp_path), None)
        assert options.dtype == "float32"
        assert f"no adapter is named for {unnamed}: using the untrained base model" in caplog.text

    def test_another_model_has_no_packaged_pair(self, packaged: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO"):
            options = completed("--model=other/model")
        assert (options.manager, options.answer, caplog.text) == (None, None, "")

    @pytest.mark.parametrize("system", ["rag", "full-context", "prompted-manager"])
    def test_a_system_without_a_trained_manager_uses_the_answer_agent_alone(self, packaged: Path, system: str) -> None:
        options = completed(f"--system={system}")
        assert (options.manager, options.answer) == (None, str(packaged / "answer"))

    def test_the_folder_tells_packaged_base_and_own_adapters_apart(self, packaged: Path) -> None:
        own, base = "--answer=outputs/demo/answer_grpo", "--manager=base"
        names = [
            completed(*arguments).output.name.removeprefix("synthetic-test-memory-r1")
            for arguments in ([], [base], [base, own], [base, f"--answer={packaged / 'answer'}"])
        ]
        assert names == [".packaged-manager.packaged-answer", "", ".demo-answer_grpo", ".packaged-answer"]


class TestOtherCommands:
    @pytest.fixture
    def commands(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
        run: list[tuple[str, ...]] = []
        monkeypatch.setattr(compare_systems, "run_python", lambda *arguments: run.append(arguments))
        return run

    def test_compared_systems_are_as_precise_as_the_packaged_manager(
        self, packaged: Path, commands: list[tuple[str, ...]]
    ) -> None:
        compare_systems.main(["--benchmark=synthetic", "--systems", "rag", "memory-r1"])
        rag, managed, compared = commands
        assert "--dtype=bfloat16" in rag and "--dtype=bfloat16" not in managed
        assert compared[-1] == ("--output=outputs/compare/synthetic-test-systems.packaged-manager.packaged-answer")

    def test_compared_systems_share_the_answer_agent_of_a_named_manager(
        self, packaged: Path, commands: list[tuple[str, ...]], tmp_path: Path
    ) -> None:
        write_json(tmp_path / "training_summary.json", {"settings": {}})
        compare_systems.main(["--benchmark=synthetic", "--systems", "rag", "memory-r1", f"--manager={tmp_path}"])
        answers = [complete(evaluate.parse_arguments(command[1:])).answer for command in commands[:2]]
        assert answers == [None, None]

    def test_a_comparison_without_a_manager_does_not_depend_on_the_packaged_one(
        self, packaged: Path, commands: list[tuple[str, ...]], tmp_path: Path
    ) -> None:
        write_json(tmp_path / "training_summary.json", {"settings": {"dtype": "float32"}})
        compare_systems.main(["--benchmark=synthetic", "--systems", "none", "rag", f"--answer={tmp_path}"])
        assert not [option for command in commands for option in command if "dtype" in option or "packaged" in option]

    @pytest.mark.parametrize(
        ("system", "expected"),
        [
            ("memory-r1", ["--manager=base", "--answer=base"]),
            ("rag", ["--answer=base"]),
            ("prompted-manager", ["--answer=base"]),
        ],
    )
    def test_a_recipe_that_means_the_base_model_says_so(self, system: str, expected: list[str]) -> None:
        command = evaluation(Path("run"), system, None, None)
        assert [word for word in command if word.startswith(("--manager=", "--answer="))] == expected
        complete(evaluate.parse_arguments(command[1:]))  # which refuses a manager where there is none
