"""The training recipes as a user runs them: real processes, a tiny random model, two steps."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file

from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.models import repoint_adapter
from recipes.writer_gold import GOLD
from tests.tiny import embedder_folder, load_base, load_tokenizer, messages, sharpen

ROOT = Path(__file__).parents[2]
LAUNCH = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--quiet"),
    *("--config_file", "recipes/accelerate/cpu.yaml"),
)
LENGTH_REWARD = "tests/fixtures/length_reward.py:length_reward"
PATIENCE = 240  # seconds; a run takes about 20
# design.md, section 6; the other files in a run's folder serve resuming or a report.
ADAPTER_FILES = {
    *("adapter_config.json", "adapter_model.safetensors", "README.md", "training_summary.json"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE)]


class Recipes:
    """Writes tiny recipes and launches them."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.common: dict[str, Any] = {
            "dataset": "synthetic",
            "train_dialogues": 1,
            "validation_dialogues": 1,
            "max_train_rows": 4,
            "max_validation_rows": 2,
            "embedder": embedder_folder(),
            "model_name_or_path": str(model),
            "dtype": "float32",
            "lora_r": 4,
            "seed": 0,
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 1.0e-2,
            "lr_scheduler_type": "constant",
            "activation_checkpointing": False,
            "use_cpu": True,
            "bf16": False,
            "logging_steps": 1,
            "disable_tqdm": True,
            "report_to": "none",
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_steps": 1,
            "load_best_model_at_end": True,
        }

    def write(self, name: str, agent: str, method: str, **fields: Any) -> Path:
        """Write the recipe `name.yaml`, whose run goes into the folder `name`."""
        if method == "sft":
            own = {"max_length": 1024, "metric_for_best_model": "eval_loss", "greater_is_better": False}
        else:
            own = {
                "num_generations": 4,
                "max_completion_length": 8,
                "temperature": 1.0,
                "log_completions": True,
                "num_completions_to_print": 0,
                "metric_for_best_model": "eval_score",
                "greater_is_better": True,
            }
        path = self.folder / f"{name}.yaml"
        recipe = {**self.common, **own, "agent": agent, "output_dir": str(self.folder / name), **fields}
        path.write_text(yaml.safe_dump(recipe))
        return path

    def start(self, name: str, agent: str, method: str, **fields: Any) -> Launched:
        return self.start_again(self.write(name, agent, method, **fields), method)

    def start_again(self, path: Path, method: str) -> Launched:
        return Launched(path, method, self.folder / path.stem)


class Launched:
    """A recipe in separate processes that can be killed together."""

    def __init__(self, recipe: Path, method: str, output: Path) -> None:
        self.output = output
        self.log = recipe.with_suffix(".log")
        self.errors = recipe.with_suffix(".err")
        with self.log.open("w") as out, self.errors.open("w") as err:
            self.process = subprocess.Popen(
                [*LAUNCH, f"recipes/{method}.py", "--config", str(recipe)],
                cwd=ROOT,
                stdout=out,
                stderr=err,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )

    def finish(self) -> int:
        return self.process.wait(timeout=PATIENCE)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=PATIENCE)

    def succeed(self) -> dict[str, Any]:
        """Return the summary of a run that must have succeeded."""
        assert self.finish() == 0, self.errors.read_text()[-3000:]
        return json.loads((self.output / "training_summary.json").read_text())

    def wait_for(self, path: Path) -> None:
        end = time.monotonic() + PATIENCE
        while not path.is_file():
            assert self.process.poll() is None, self.errors.read_text()[-3000:]
            assert time.monotonic() < end, f"{path} was not written"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Recipes:
    return Recipes(tmp_path_factory.mktemp("runs"), tiny_model)


@pytest.fixture(scope="module")
def warm(recipes: Recipes) -> dict[str, Path]:
    """Train both agents' warm starts concurrently; return their folders."""
    runs = {agent: recipes.start(f"{agent}_sft", agent, "sft") for agent in ("manager", "answer")}
    for run in runs.values():
        run.succeed()
    return {agent: run.output for agent, run in runs.items()}


@pytest.fixture(scope="module")
def trained(recipes: Recipes, warm: dict[str, Path]) -> Iterator[Launched]:
    """Start GRPO of the Answer Agent over the warm manager's banks, without validation and beside the other runs."""
    run = recipes.start(
        "answer_grpo",
        "answer",
        "grpo",
        first_dialogue=1,
        banks="manager",
        manager_adapter=str(warm["manager"]),
        warm_start=str(warm["answer"]),
        reward_funcs=["answer_f1", LENGTH_REWARD],
        reward_weights=[1.0, 1.0],
        eval_strategy="no",
        load_best_model_at_end=False,
    )
    yield run
    if run.process.poll() is None:
        run.kill()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


def check_adapter_folder(folder: Path, summary: dict[str, Any], agent: str, method: str, tiny_model: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names >= ADAPTER_FILES
    assert not [name for name in names if name.startswith((".", "checkpoint-")) or name.endswith((".part", ".bin"))]
    assert (summary["agent"], summary["method"], summary["base_model"]["id"]) == (agent, method, tiny_model.name)
    assert summary["steps"] == summary["recipe"]["max_steps"]
    # Defaults too: users of the adapter must not need to know them.
    assert summary["settings"].items() >= {"dtype": "float32", "answer_style": "ids"}.items()
    assert min(summary["settings"]["recall_per_speaker"], summary["settings"]["max_new_tokens"]) >= 1
    losses = [row["loss"] for row in summary["log_history"] if "loss" in row]
    assert len(losses) == summary["steps"]
    assert all(math.isfinite(loss) for loss in losses)
    assert all(tensor.abs().max() > 0 for name, tensor in weights(folder).items() if "lora_B" in name)
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    assert model.get_base_model().config.hidden_size == 64


@pytest.mark.parametrize("agent", ["manager", "answer"])
def test_a_warm_start_trains_and_leaves_an_adapter(agent: str, warm: dict[str, Path], tiny_model: Path) -> None:
    folder = warm[agent]
    summary = json.loads((folder / "training_summary.json").read_text())
    check_adapter_folder(folder, summary, agent, "sft", tiny_model)
    assert (summary["labelled_dialogues"], summary["train_rows"]) == (1, 4)
    losses = [row["loss"] for row in summary["log_history"] if "loss" in row]
    assert losses[-1] < losses[0]  # the same four rows twice
    assert summary["best_validation"] == min(row["eval_loss"] for row in summary["log_history"] if "eval_loss" in row)


def test_a_writer_trains_and_is_scored(recipes: Recipes, tiny_model: Path, tmp_path: Path) -> None:
    run = recipes.start("writer_sft", "writer", "sft")
    summary = run.succeed()
    assert (summary["agent"], summary["train_rows"], summary["settings"]["max_new_tokens"]) == ("writer", 4, None)
    options = ["--writer", run.output, "--model", tiny_model, "--embedder", embedder_folder(), "--dialogues", 1]
    command = ["recipes/evaluate_writer.py", *options, "--limit", 1, "--output", tmp_path / "scores.json"]
    subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True, timeout=PATIENCE)
    assert json.loads((tmp_path / "scores.json").read_text())["tasks"].keys() == GOLD.keys()


def test_a_manager_of_a_graph_is_warmed_up_and_reinforced(
    recipes: Recipes, warm: dict[str, Path], tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph: dict[str, Any] = {"dataset": "synthetic-aliases", "operations": "graph"}
    first = recipes.start("manager_sft_graph", "manager", "sft", **graph)
    assert first.succeed()["settings"]["operations"] == "graph"
    fields: dict[str, Any] = {
        **graph,
        "first_dialogue": 1,
        "banks": "manager",
        "manager_adapter": str(first.output),
        "credit": "substitution",
        "reward_funcs": ["answer_containment", "operation_format"],
        "reward_weights": [1.0, 0.1],
    }
    run = recipes.start("manager_grpo_graph", "manager", "grpo", warm_start=str(first.output), **fields)
    summary = run.succeed()
    check_adapter_folder(run.output, summary, "manager", "grpo", tiny_model)
    assert "completions/share_LINK" in {key for row in summary["log_history"] for key in row}
    flat = recipes.write("manager_grpo_flat_start", "manager", "grpo", warm_start=str(warm["manager"]), **fields)
    assert run_here("grpo", "--config", str(flat)) == 1
    assert "writes flat operations, but warm_start needs graph ones" in only_error(capsys.readouterr().err)


PLAIN_USE = """
import json, sys
from pathlib import Path
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, prompts = json.loads(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(adapter)

def says(model):
    said = []
    for prompt in prompts:
        asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**asked, max_new_tokens=16, do_sample=False)
        said.append(output[0, asked["input_ids"].size(1) :].tolist())
    return said

auto = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32)
plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
found = {"place": auto.get_base_model().config._name_or_path, "base": says(plain), "auto": says(auto)}
plain.load_adapter(adapter)
found["loaded"] = says(plain)
found["foreign"] = [name for name in sys.modules if name.split(".")[0] in ("memory_r1", "trl", "rewards", "recipes")]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def decided(recipes: Recipes, tiny_model: Path) -> tuple[Path, dict[str, Path]]:
    """Make a base model whose text depends on the prompt, and a trained adapter of each agent."""
    base = recipes.folder / "decided"
    sharpen(load_base(tiny_model)).save_pretrained(base)
    load_tokenizer(tiny_model).save_pretrained(base)
    fields: dict[str, Any] = {
        "model_name_or_path": str(base),
        "learning_rate": 5.0e-2,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
    }
    runs = {agent: recipes.start(f"{agent}_decided", agent, "sft", **fields) for agent in ("manager", "answer")}
    for run in runs.values():
        run.succeed()
    return base, {agent: run.output for agent, run in runs.items()}


@pytest.mark.parametrize("agent", ["manager", "answer"])
def test_plain_transformers_and_peft_say_what_the_pipeline_says_from_a_base_that_moved(
    agent: str, decided: tuple[Path, dict[str, Path]], tmp_path: Path
) -> None:
    trained_on, adapters = decided
    base, adapter = tmp_path / "elsewhere" / "base", tmp_path / "adapter"
    shutil.copytree(trained_on, base)
    shutil.copytree(adapters[agent], adapter)
    repoint_adapter(adapter, str(base))
    prompts = messages(["Ann: I moved to Lisbon.", "Where does Ann live now?", "Ben: I sold my bicycle."])
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_USE, json.dumps([str(base), str(adapter), prompts])],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["foreign"], found["place"]) == ([], str(base))
    pipeline = LocalLanguageModel.load(str(trained_on), {agent: adapters[agent]}, device="cpu")
    with pipeline.evaluating(agent):
        ids = pipeline.generate_ids([pipeline.tokenize(prompt) for prompt in prompts], max_new_tokens=16)
    assert found["auto"] == found["loaded"] == ids
    assert all(said != base_said for said, base_said in zip(ids, found["base"], strict=True))


def test_a_killed_run_goes_on_from_its_checkpoint(
    recipes: Recipes, warm: dict[str, Path], trained: Launched, tiny_model: Path
) -> None:
    fields: dict[str, Any] = {
        "first_dialogue": 1,
        "banks": "gold",
        "warm_start": str(warm["manager"]),
        "answer_adapter": str(warm["answer"]),
        "answer_max_tokens": 8,
        "reward_funcs": ["answer_f1", "operation_format", LENGTH_REWARD],
        "reward_weights": [1.0, 0.1, 1.0],
        "beta": 0.02,
        "max_steps": 6,
    }
    run = recipes.start("manager_grpo", "manager", "grpo", **fields)
    first = run.output / "checkpoint-1"
    run.wait_for(first / "trainer_state.json")
    run.kill()
    assert not (run.output / "training_summary.json").exists()
    start = (run.output / "start" / "policy.safetensors").read_bytes()
    before = json.loads((first / "trainer_state.json").read_text())["log_history"]
    # The reference of the KL term is the warm start, and was saved as such.
    assert same(load_file(run.output / "start" / "policy.safetensors"), weights(warm["manager"]))
    assert same(weights(first / "ref"), weights(warm["manager"]))
    assert not same(weights(first), weights(warm["manager"]))
    # The frozen Answer Agent beside it did not learn.
    assert same(weights(first / "answer"), weights(warm["answer"]))

    resumed = recipes.start_again(recipes.folder / "manager_grpo.yaml", "grpo")
    later = run.output / "checkpoint-3"  # three steps before the checkpoints are dropped
    resumed.wait_for(later / "trainer_state.json")
    assert same(weights(later / "ref"), weights(warm["manager"]))
    assert not same(weights(later), weights(first))
    summary = resumed.succeed()
    check_adapter_folder(run.output, summary, "manager", "grpo", tiny_model)
    history = summary["log_history"]
    assert history[: len(before)] == before  # including each step's seconds: the first steps were not rerun
    assert [row["step"] for row in history if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert (run.output / "start" / "policy.safetensors").read_bytes() == start
    kl = [row["kl"] for row in history if "kl" in row]
    assert len(kl) == 6
    # The policy moves away from its reference; a reference copied anew on resume would be near it again.
    assert kl[0] == pytest.approx(0, abs=1e-5)
    assert min(kl[1:]) > 1e-4
    assert summary["start_validation"] == json.loads((run.output / "start" / "score.json").read_text())["score"]
    assert summary["best_validation"] >= summary["start_validation"]
    assert same(weights(run.output), weights(warm["manager"])) is summary["kept_start"]
    assert {"rewards/length_reward/mean", "completions/share_ADD", "groups/all_zero"} <= set(history[0]) | set(
        history[1]
    )


def test_rl_moves_the_policy_it_started_from(trained: Launched, warm: dict[str, Path], tiny_model: Path) -> None:
    summary = trained.succeed()
    check_adapter_folder(trained.output, summary, "answer", "grpo", tiny_model)
    assert not same(weights(trained.output), weights(warm["answer"]))
    assert (summary["kept_start"], summary["start_validation"]) == (False, None)
    assert summary["first_reward"] != summary["last_reward"]
    assert not (trained.output / "start").exists()


def test_ppo_trains_both_agents_with_a_critic(recipes: Recipes, warm: dict[str, Path], tiny_model: Path) -> None:
    fields: dict[str, Any] = {
        "first_dialogue": 1,
        "num_iterations": 2,
        "reward_weights": [1.0, 1.0],
        "eval_strategy": "no",
        "load_best_model_at_end": False,
    }
    own: dict[str, dict[str, Any]] = {
        "manager": {"answer_adapter": str(warm["answer"]), "answer_max_tokens": 8, "kl_in_reward": 0.01},
        "answer": {},
    }
    runs = {
        agent: recipes.start(
            f"{agent}_ppo",
            agent,
            "ppo",
            warm_start=str(warm[agent]),
            reward_funcs=["answer_f1", LENGTH_REWARD],
            **fields,
            **own[agent],
        )
        for agent in ("manager", "answer")
    }
    for agent, run in runs.items():
        summary = run.succeed()
        check_adapter_folder(run.output, summary, agent, "ppo", tiny_model)
        assert not same(weights(run.output), weights(warm[agent]))
        assert load_file(run.output / "critic.safetensors")["weight"].abs().max() > 0
        first, second = (row for row in summary["log_history"] if "loss" in row)
        # One batch of completions for two steps.
        assert "critic/explained_variance" in first and "critic/explained_variance" not in second
        assert first["critic/loss"] > 0 < second["critic/loss"]
        assert second["approx_kl"] > 0
        assert (run.output / "completions.jsonl").is_file()


def test_a_finished_run_is_left_as_it_is_and_another_recipe_is_refused(
    recipes: Recipes, warm: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in warm["manager"].iterdir() if path.name != "recipe.json"}
    path = recipes.folder / "manager_sft.yaml"
    assert run_here("sft", "--config", str(path)) == 0
    capsys.readouterr()
    assert run_here("sft", "--config", str(path), "--learning_rate", "0.5") == 1
    assert "holds a run of another recipe (differs in: learning_rate)" in only_error(capsys.readouterr().err)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def run_here(method: str, *argv: str) -> int:
    """Run the recipe's command in this process, like its `__main__`, so that imports are paid for once."""
    from memory_r1.entry import run_main
    from recipes import grpo, sft

    return run_main({"sft": sft, "grpo": grpo}[method].main, list(argv))


def only_error(text: str) -> str:
    """Return the one-line error; libraries may warn beside it."""
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return line


def write_lines(path: Path, *lines: object) -> str:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


def dialogue(name: str, turns: int = 2) -> dict[str, Any]:
    spoken = [{"turn_id": f"t{n}", "speaker": "Ann", "text": "I live in Rome."} for n in range(turns)]
    return {
        "dialogue_id": name,
        "speakers": ["Ann", "Ben"],
        "sessions": [{"session_id": "s1", "timestamp": "2023-05-08T13:56:00", "turns": spoken}],
        "questions": [
            {"question_id": f"{name}-q", "question": "Where?", "answer": "Rome", "category": "x", "evidence": ["t0"]}
        ],
    }


def bad_fields(case: str, folder: Path, warm: dict[str, Path]) -> tuple[dict[str, Any], str]:
    """Return a user's mistake and the text that its error must contain."""
    if case == "unknown reward":
        return {"reward_funcs": ["operation_fromat"]}, "found 'operation_fromat', allowed for the manager agent"
    if case == "mistyped key":
        return {"learing_rate": 1.0}, "unknown key 'learing_rate' (did you mean 'learning_rate'?)"
    if case == "mistyped value":
        return {"recall_per_speaker": "many"}, "invalid int value: 'many'"
    if case == "missing reward file":
        return {"reward_funcs": ["no/file.py:reward"]}, "no/file.py is no file"
    if case == "missing adapter":
        return {"warm_start": str(folder / "nowhere")}, "nowhere: no such folder"
    if case == "missing manager adapter":
        return {"banks": "manager", "manager_adapter": str(folder / "nowhere")}, "nowhere: no such folder"
    if case == "foreign adapter":
        foreign = folder / "foreign"
        foreign.mkdir()
        for path in warm["manager"].iterdir():
            if path.is_file():
                (foreign / path.name).write_bytes(path.read_bytes())
        summary = json.loads((foreign / "training_summary.json").read_text())
        summary["base_model"] = {"id": "other/model", "weights_sha256": "0" * 64}
        (foreign / "training_summary.json").write_text(json.dumps(summary))
        return {"warm_start": str(foreign)}, "was trained on 'other/model'"
    if case == "missing model":
        return {"model_name_or_path": str(folder / "nowhere")}, "nowhere"
    if case == "fewer rows than a rollout has prompts":
        return {"max_train_rows": 1, "num_generations": 2}, "fewer than the 2 distinct prompts of a rollout"
    if case == "malformed dialogue line":
        path = write_lines(folder / "own.jsonl", dialogue("d1"), '{"dialogue_id": "d2", ')
        return {"dataset": path}, "own.jsonl:2"
    if case == "empty dialogue":
        path = write_lines(folder / "own.jsonl", dialogue("d1"), dialogue("d2", turns=0))
        return {"dataset": path}, "own.jsonl:2"
    if case == "no gold operations":
        path = write_lines(folder / "own.jsonl", dialogue("d1"), dialogue("d2"))
        return {"dataset": path}, "has no gold operations"
    assert case == "truncated LoCoMo file"
    cache = folder / "cache" / "data"
    cache.mkdir(parents=True)
    (cache / "locomo10.json").write_text('[{"qa": [')
    return {"dataset": "locomo", "banks": "observations"}, "locomo10.json"


CASES = (
    "unknown reward",
    "mistyped key",
    "mistyped value",
    "missing reward file",
    "missing adapter",
    "missing manager adapter",
    "foreign adapter",
    "missing model",
    "fewer rows than a rollout has prompts",
    "malformed dialogue line",
    "empty dialogue",
    "no gold operations",
    "truncated LoCoMo file",
)


@pytest.mark.parametrize("case", CASES)
def test_what_a_user_gets_wrong_is_one_line_and_leaves_nothing_behind(
    case: str,
    recipes: Recipes,
    warm: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MEMORY_R1_CACHE", str(tmp_path / "cache"))
    fields, named = bad_fields(case, tmp_path, warm)
    fields = {"reward_funcs": ["operation_format"], "output_dir": str(tmp_path / "out"), **fields}
    path = recipes.write("bad", "manager", "grpo", **fields)
    assert run_here("grpo", "--config", str(path)) == 1
    assert named in only_error(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_the_launcher_hands_status_and_line_through(recipes: Recipes, warm: dict[str, Path]) -> None:
    launched = [
        recipes.start("bad_key", "manager", "sft", learing_rate=1.0),
        recipes.start("bad_reward", "answer", "grpo", reward_funcs=["answer_f3"], warm_start=str(warm["answer"])),
    ]
    for run, named in zip(launched, ("learing_rate", "answer_f3"), strict=True):
        assert run.finish() == 1
        assert named in only_error(run.errors.read_text())
        assert not run.output.exists()
