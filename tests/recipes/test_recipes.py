"""Every recipe parses with the installed TRL, gives its command, and names existing rewards."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.assembly import agent_settings, recipe_of
from memory_r1.training.recipe_file import parse_recipe
from memory_r1.training.trainer_configs import MemoryGRPOConfig, MemoryPPOConfig, MemorySFTConfig
from recipes import commands
from rewards import check_rewards

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*/*.yaml") if path.parent.name != "accelerate")
CONFIGS: dict[str, type] = {"sft": MemorySFTConfig, "grpo": MemoryGRPOConfig, "ppo": MemoryPPOConfig}
NAME = re.compile(r"(?P<agent>manager|answer|writer|drafter)_(?P<method>sft|grpo|ppo)(_\w+)?")


def parsed(path: Path) -> tuple[Any, Any, Any]:
    method = NAME.fullmatch(path.stem)["method"]  # type: ignore[index]
    # Without a GPU, transformers refuses bfloat16 unless `use_cpu` is set.
    return parse_recipe(CONFIGS[method], ["--config", str(path), *([] if torch.cuda.is_available() else ["--use_cpu"])])


def sampled(path: Path) -> float:
    """Return the number of completions that an RL run samples."""
    memory, training, _ = parsed(path)
    processes = load_config_from_file(str(ROOT / memory.accelerate)).num_processes
    rows = training.per_device_train_batch_size * training.steps_per_generation * processes
    steps = training.steps_per_generation * training.num_iterations / training.gradient_accumulation_steps
    return training.max_steps / steps * rows


def test_there_are_recipes_for_both_agents_and_methods() -> None:
    expected = {f"{agent}_{method}" for agent in ("manager", "answer") for method in CONFIGS}
    assert {*expected, "writer_sft", "drafter_sft"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
class TestRecipe:
    def test_its_name_says_agent_and_method_and_it_parses(self, path: Path) -> None:
        assert NAME.fullmatch(path.stem), f"{path} must be named <agent>_<method>[_variant].yaml"
        memory, training, model = parsed(path)
        assert memory.agent == NAME.fullmatch(path.stem)["agent"]  # type: ignore[index]
        assert model.model_name_or_path
        # These fields identify a recipe, so they must include everything in the file.
        written = yaml.safe_load(path.read_text())
        assert recipe_of(memory, training, model)["agent"] == written["agent"]
        for key, value in written.items():
            holder = next(item for item in (memory, training, model) if hasattr(item, key))
            assert getattr(holder, key) == value or key in ("eval_strategy", "report_to", "logging_steps"), key

    def test_it_opens_with_a_comment_that_holds_its_command(self, path: Path) -> None:
        comment = []
        for line in path.read_text().splitlines():
            if not line.startswith("#"):
                break
            comment.append(line)
        agent, method = NAME.fullmatch(path.stem)["agent"], NAME.fullmatch(path.stem)["method"]  # type: ignore[index]
        text = "\n".join(comment)
        assert f"make train-{agent}-{method}" in text
        default = path.parent.name == "smollm2-135m" and path.stem == f"{agent}_{method}"
        assert default or f"RECIPE={path.relative_to(ROOT)}" in text
        assert re.search(r"\d+ (CPU cores?|GPUs?)|minutes|hours", text), "the comment must say hardware and duration"
        assert f"train-{agent}-{method}:" in (ROOT / "Makefile").read_text()

    def test_make_runs_it_on_the_hardware_that_its_comment_names(self, path: Path) -> None:
        memory, training, model = parsed(path)
        engine = load_config_from_file(str(ROOT / memory.accelerate))
        needed = re.search(r"^# (\d+) (CPU|GPU)", path.read_text(), re.MULTILINE)
        assert needed, "the comment must say on how many CPU cores or GPUs"
        assert engine.use_cpu == (needed[2] == "CPU")
        assert engine.use_cpu or engine.num_processes == int(needed[1])
        assert "ACCELERATE=" not in path.read_text()
        assert "accelerate" not in recipe_of(memory, training, model)  # the engine does not change the computation

    def test_the_manager_behind_an_answer_agents_banks_may_write_as_much_as_it_was_trained_to(self, path: Path) -> None:
        memory, _, _ = parsed(path)
        if memory.agent == "answer" and memory.banks == "manager":
            trained = ROOT / "recipes" / f"{Path(memory.manager_adapter).relative_to('outputs')}.yaml"
            longest = getattr(parsed(trained)[1], "max_completion_length", MemoryArguments("answer").manager_max_tokens)
            assert memory.manager_max_tokens == longest

    def test_its_lines_fit(self, path: Path) -> None:
        assert max(map(len, path.read_text().splitlines())) <= 120

    def test_the_policys_warm_up_outlasts_the_critics(self, path: Path) -> None:
        _, training, _ = parsed(path)
        if isinstance(training, MemoryPPOConfig) and training.value_warmup_steps:
            # Otherwise the policy would take its first step at the full learning rate.
            assert training.get_warmup_steps(training.max_steps) > training.value_warmup_steps

    def test_grpo_says_which_loss_it_means(self, path: Path) -> None:
        if "_grpo" in path.stem:
            # The paper's on GPUs; on the CPU the loss of the published experiments, TRL's default.
            expected = "dapo" if path.parent.name in ("smollm2-135m", "own") else "grpo"
            assert yaml.safe_load(path.read_text()).get("loss_type") == expected

    def test_ppo_samples_as_many_completions_as_grpo(self, path: Path) -> None:
        if "_ppo" in path.stem:
            other = path.with_stem(path.stem.replace("_ppo", "_grpo"))
            assert sampled(path) == sampled(other)

    def test_its_rewards_exist(self, path: Path) -> None:
        memory, training, _ = parsed(path)
        if isinstance(training, MemoryGRPOConfig):
            check_rewards(
                memory.reward_funcs, memory.agent, training.reward_weights, has_answer_agent=memory.has_answer_agent
            )

    def test_it_saves_what_it_validates(self, path: Path) -> None:
        _, training, _ = parsed(path)
        assert training.load_best_model_at_end
        assert training.save_steps % training.eval_steps == 0
        assert training.max_steps % training.eval_steps == 0  # otherwise the last steps are never validated
        better = {"eval_score": True, "eval_loss": False}
        assert better[training.metric_for_best_model] is training.greater_is_better

    def test_it_writes_where_no_other_recipe_writes(self, path: Path) -> None:
        others = [parsed(other)[1].output_dir for other in RECIPES if other != path]
        assert parsed(path)[1].output_dir not in others
        assert parsed(path)[1].output_dir.startswith("outputs/")


@pytest.mark.parametrize("credit", ["session", "branch"])
def test_credit_is_compared_with_all_else_equal(credit: str) -> None:
    folder = ROOT / "recipes" / "smollm2-135m"
    default, other = (
        yaml.safe_load((folder / name).read_text()) for name in ("manager_grpo.yaml", f"manager_grpo_{credit}.yaml")
    )
    same = (
        "per_device_train_batch_size",
        "num_generations",
        "learning_rate",
        "entry_cost",
        "scale_rewards",
        "max_steps",
    )
    assert {key: other[key] for key in same} == {key: default[key] for key in same}
    assert (other["credit"], default["credit"]) == (credit, "substitution")


@pytest.mark.parametrize("model", ["qwen2.5-3b", "qwen2.5-7b", "llama-3.1-8b"])
@pytest.mark.parametrize("agent", ["manager", "answer"])
def test_a_warm_start_is_recorded_with_the_lengths_and_the_depth_that_rl_goes_on_with(model: str, agent: str) -> None:
    warm, supervised, _ = parsed(ROOT / "recipes" / model / f"{agent}_sft.yaml")
    learnt, reinforced, _ = parsed(ROOT / "recipes" / model / "manager_grpo.yaml")
    expected = reinforced.max_completion_length if agent == "manager" else learnt.answer_max_tokens
    settings = agent_settings(warm, supervised, SimpleNamespace(dtype="bfloat16"))
    assert (settings.max_new_tokens, settings.recall_per_speaker) == (expected, learnt.recall_per_speaker)
    assert warm.filler_memories >= 2 * learnt.recall_per_speaker


def test_rl_learns_from_other_dialogues_than_the_warm_start_had_labels_for() -> None:
    folder = ROOT / "recipes" / "smollm2-135m"
    for path in sorted(folder.glob("*.yaml")):
        memory, _, _ = parsed(path)
        if memory.operations == "graph":  # everyday chats call nothing by two names
            assert memory.dataset == "synthetic-aliases", path
            labelled = parsed(folder / "manager_sft_graph.yaml")[0].train_dialogues
            assert "_sft" in path.stem or memory.first_dialogue >= labelled, path
        else:
            generated = "synthetic+scenes" if memory.agent == "manager" else "synthetic"
            assert memory.dataset == (generated if path.stem.endswith("sft") else "everyday"), path


def test_own_data_is_learnt_from_as_the_published_experiments_learn() -> None:
    for path in sorted((ROOT / "recipes" / "own").glob("*.yaml")):
        own, published = (
            yaml.safe_load(each.read_text()) for each in (path, ROOT / "recipes/smollm2-135m" / path.name)
        )
        assert own["dataset"] == "own/train.jsonl"
        other = {key for key in {*own, *published} if own.get(key) != published.get(key)}
        assert other <= {
            *("dataset", "train_dialogues", "validation_dialogues", "max_validation_rows", "answer_adapter"),
            *("output_dir", "max_steps", "eval_steps", "save_steps"),
        }


def test_four_bits_are_spent_where_one_card_does_not_hold_the_base_without() -> None:
    quantised = {path: parsed(path) for path in RECIPES if parsed(path)[2].load_in_4bit}
    folder = ROOT / "recipes" / "qwen2.5-7b"
    assert set(quantised) == {folder / f"{agent}_grpo_4bit.yaml" for agent in ("manager", "answer")}
    for memory, training, _ in quantised.values():
        assert memory.accelerate == "recipes/accelerate/single_gpu.yaml"
        assert not training.use_vllm  # vLLM would sample from a policy merged from rounded weights


def test_a_recipe_run_from_another_one_is_launched_as_it_says_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "RECIPES", tmp_path)
    (tmp_path / "answer_sft.yaml").write_text("accelerate: recipes/accelerate/single_gpu.yaml\nagent: answer\n")
    assert "--config_file=recipes/accelerate/single_gpu.yaml" in commands.training("answer", "sft")
