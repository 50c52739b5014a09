"""A recipe is checked before anything is loaded, with one-line errors."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from trl import GRPOConfig, SFTConfig

from memory_r1.errors import ConfigurationError
from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.field_checks import LEAST
from memory_r1.training.recipe_file import parse_recipe
from memory_r1.training.trainer_configs import MemoryGRPOConfig, MemoryModelConfig, MemoryPPOConfig, MemorySFTConfig

RECIPE: dict[str, Any] = {
    "agent": "manager",
    "train_dialogues": 2,
    "reward_funcs": ["operation_format"],
    "model_name_or_path": "some/model",
    "output_dir": "outputs/none",
    "use_cpu": True,
    "bf16": False,
    "learning_rate": 1.0e-4,
}


SFT_RECIPE = {key: value for key, value in RECIPE.items() if key != "reward_funcs"}


def write(folder: Path, recipe: dict[str, Any] = RECIPE, **changes: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, **changes}))
    return str(path)


def refusal(folder: Path, *argv: str, config: type = MemoryGRPOConfig, **changes: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        recipe = SFT_RECIPE if config is MemorySFTConfig else RECIPE
        parse_recipe(config, ["--config", write(folder, recipe, **changes), *argv])
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_one_file_fills_all_three_and_the_command_line_overrides_it(tmp_path: Path) -> None:
    argv = ["--config", write(tmp_path), "--recall_per_speaker", "7", "--seed", "3"]
    memory, training, model = parse_recipe(MemoryGRPOConfig, argv)
    assert (memory.agent, memory.train_dialogues, memory.recall_per_speaker) == ("manager", 2, 7)
    assert (training.learning_rate, training.seed, training.shared_prefix) == (1.0e-4, 3, True)
    assert model.model_name_or_path == "some/model"


@pytest.mark.parametrize("text", ["learning_rate: 1e-5", "learning_rate: '1e-5'", "learning_rate: 0.00001"])
def test_numbers_may_be_written_in_each_way_that_yaml_has(text: str, tmp_path: Path) -> None:
    # YAML reads "1e-5", which has no dot, as a string.
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in SFT_RECIPE.items() if k != "learning_rate"}) + text + "\n")
    assert parse_recipe(MemorySFTConfig, ["--config", str(path)])[1].learning_rate == pytest.approx(1e-5)


def test_config_may_be_joined_to_its_file_by_an_equals_sign(tmp_path: Path) -> None:
    assert parse_recipe(MemorySFTConfig, [f"--config={write(tmp_path, SFT_RECIPE)}"])[0].train_dialogues == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # an unknown key, with the nearest name
        ({"learnin_rate": 1.0}, "unknown key 'learnin_rate' (did you mean 'learning_rate'?)"),
        ({"recal_per_speaker": 2}, "did you mean 'recall_per_speaker'?"),
        ({"zzzzzz": 1}, "unknown key 'zzzzzz'; `--help` lists all keys"),
        ({"max_prompt_length": 5}, "unknown key 'max_prompt_length'"),  # removed from TRL
        # a value of the wrong type, in our fields, TRL's and the model's
        ({"recall_per_speaker": 5.5}, "recall_per_speaker: found 5.5, allowed: int"),
        ({"top_k": 5.5}, "top_k: found 5.5, allowed: int"),
        ({"recall_per_speaker": True}, "found True, allowed: int"),
        ({"recall_per_speaker": "five"}, "invalid int value: 'five'"),
        ({"recall_per_speaker": [2]}, "found [2], allowed: int"),
        ({"learning_rate": True}, "learning_rate: found True, allowed: a finite number"),
        ({"learning_rate": float("nan")}, "learning_rate: found nan"),
        ({"beta": float("inf")}, "beta: found inf"),
        ({"use_cpu": "perhaps"}, "--use_cpu"),
        ({"max_steps": 1.5}, "max_steps: found 1.5, allowed: int"),
        ({"train_dialogues": "two"}, "invalid int value: 'two'"),
        ({"reward_funcs": "operation_format"}, "reward_funcs: found 'operation_format', allowed: list of str"),
        ({"reward_funcs": [1]}, "reward_funcs: found [1]"),
        ({"reward_weights": [1.0, "much"]}, "reward_weights: found [1.0, 'much'], allowed: list of a finite number"),
        ({"lora_r": 2.5}, "lora_r: found 2.5, allowed: int"),
        ({"shared_prefix": 3}, "shared_prefix: found 3, allowed: bool"),
        # a value outside the choices
        ({"answer_style": "poem"}, "answer_style"),
        ({"agent": "judge"}, "agent: found 'judge', allowed: manager, answer"),
        ({"banks": "golden"}, "banks: found 'golden', allowed: gold, observations, turns, manager (did"),
        ({"credit": "dialogue"}, "credit: found 'dialogue', allowed: turn, session, branch"),
        ({"dtype": "bfloat"}, "dtype: found 'bfloat', allowed: auto, bfloat16, float16, float32"),
        ({"loss_type": "dap"}, "loss_type: found 'dap', allowed: grpo,"),
        ({"loss_type": "dap"}, "(did you mean 'dapo'?)"),
        ({"eval_strategy": "sometimes"}, "sometimes is not a valid IntervalStrategy"),
        # contradictory options
        ({"banks": "manager"}, "manager_adapter is not set"),
        ({"banks": "observations"}, "only locomo has observations"),
        ({"credit": "branch", "agent": "answer"}, "credit is 'branch' but agent is 'answer'"),
        ({"per_device_train_batch_size": 3, "num_generations": 2}, "must be divisible by num_generations"),
        ({"model_name_or_path": None}, "model_name_or_path is not set"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs is set"),
        ({"variance_sampling": 1.5}, "variance_sampling: found 1.5, allowed: 0 to 1"),
        ({"dynamic_sampling_rounds": -1}, "dynamic_sampling_rounds: found -1, allowed: at least 0"),
        (
            {"dynamic_sampling_rounds": 1, "log_completions": True},
            "log_completions is set with dynamic_sampling_rounds",
        ),
        ({"judge_url": "http://key@host/v1"}, "found credentials in it"),
        ({"agent": None}, "agent: found None, allowed: str"),
        ({"recall_per_speaker": None}, "recall_per_speaker: found None, allowed: int"),
        ({"trust_remote_code": True}, "trust_remote_code: found true, allowed: false"),
        ({"agent": "writer"}, "agent is 'writer', which learns from gold texts alone; train it with recipes/sft.py"),
        # mistakes that TRL and transformers report late or never
        ({"max_completion_length": None}, "max_completion_length: found null, allowed: int"),
        ({"learning_rate": 0.0}, "learning_rate: found 0.0, allowed: more than 0"),
        ({"learning_rate": -1.0e-4}, "learning_rate: found -0.0001, allowed: more than 0"),
        ({"lora_modules_to_save": ["lm_head"]}, "lora_modules_to_save is set, but the recipes do not use it yet"),
        ({"lora_target_parameters": ["w"]}, "lora_target_parameters is set, but the recipes do not use it yet"),
        ({"use_dora": True}, "use_dora is set, but the recipes do not use it yet"),
        ({"use_rslora": True}, "use_rslora is set, but the recipes do not use it yet"),
        ({"metric_for_best_model": "eval_loss"}, "metric_for_best_model: found 'eval_loss', allowed: eval_score"),
        ({"load_best_model_at_end": True}, "load_best_model_at_end is set but metric_for_best_model is not"),
        ({"report_to": "tensorbord"}, "report_to: found 'tensorbord', allowed: none, all, tensorboard,"),
        ({"report_to": "tensorbord"}, "(did you mean 'tensorboard'?)"),
        ({"report_to": ["tensorboard", "paper"]}, "report_to: found 'paper'"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, **changes)


@pytest.mark.parametrize("field", sorted(LEAST))
def test_every_range_is_kept(field: str, tmp_path: Path) -> None:
    least = LEAST[field]
    below: float = least - 1 if isinstance(least, int) else least - 0.5
    config = MemorySFTConfig if field == "patience" else MemoryPPOConfig
    assert f"{field}: found {below}, allowed: at least {least}" in refusal(tmp_path, config=config, **{field: below})


def test_every_range_is_one_of_a_field() -> None:
    classes = (MemoryArguments, MemorySFTConfig, MemoryPPOConfig, MemoryModelConfig)
    assert set(LEAST) <= {item.name for cls in classes for item in dataclasses.fields(cls)}


def test_a_required_key_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("model_name_or_path: some/model\nuse_cpu: true\nbf16: false\n")
    with pytest.raises(ConfigurationError, match="required: --agent"):
        parse_recipe(MemorySFTConfig, ["--config", str(path)])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--recall_per_speaker", "x"], "invalid int value: 'x'"),
        (["--banks", "golden"], "invalid choice: 'golden'"),
        (["--no_such_option", "1"], "--no_such_option"),
        (["--recall_per_speaker", "0"], "recall_per_speaker: found 0, allowed: at least 1"),
    ],
)
def test_the_command_line_is_checked_too(argv: list[str], message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, *argv)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 1.5}, "gamma: found 1.5, allowed: at most 1"),
        ({"gae_lambda": 1.01}, "gae_lambda: found 1.01, allowed: at most 1"),
        ({"whiten_advantages": 2}, "whiten_advantages: found 2, allowed: bool"),
        ({"loss_type": "cispo"}, "loss_type: found 'cispo', allowed with PPO: grpo, bnpo, dr_grpo, dapo"),
        ({"scale_rewards": "batch"}, "scale_rewards is set, but PPO has a critic in its place"),
        ({"dynamic_sampling_rounds": 1}, "dynamic_sampling_rounds is set, but PPO has a critic in its place"),
    ],
)
def test_what_ppo_cannot_use_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, config=MemoryPPOConfig, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_funcs": ["operation_format"]}, "reward_funcs is set, but SFT learns from labels"),
        ({"answer_adapter": "outputs/answer"}, "answer_adapter is set, but SFT learns from labels"),
        (
            {"answer_server": "http://127.0.0.1:8000/v1", "answer_server_model": "answer"},
            "answer_server is set, but SFT learns from labels",
        ),
        ({"credit": "session"}, "credit is set, but SFT learns from labels"),
        (
            {"agent": "writer", "dataset": "everyday"},
            "agent is 'writer' but dataset is 'everyday'; only synthetic dialogues have gold texts",
        ),
        ({"metric_for_best_model": "eval_score"}, "metric_for_best_model: found 'eval_score', allowed: eval_loss"),
    ],
)
def test_what_sft_would_ignore_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert message in refusal(tmp_path, config=MemorySFTConfig, **changes)


@pytest.mark.parametrize("reporters", ["none", "tensorboard", ["tensorboard"], []])
def test_known_reporters_may_be_named_alone_or_in_a_list(reporters: Any, tmp_path: Path) -> None:
    _, training, _ = parse_recipe(MemoryGRPOConfig, ["--config", write(tmp_path, report_to=reporters)])
    assert training.report_to == ([] if reporters in ("none", []) else ["tensorboard"])


def test_remote_code_is_refused_for_both_trainers(tmp_path: Path) -> None:
    for config in (MemorySFTConfig, MemoryGRPOConfig):
        with pytest.raises(ConfigurationError, match="no remote code"):
            parse_recipe(config, ["--config", write(tmp_path, trust_remote_code=True)])


@pytest.mark.parametrize("config", [MemorySFTConfig, MemoryGRPOConfig, MemoryPPOConfig])
@pytest.mark.parametrize(
    "fields",
    [
        {"hub_token": "hf_secret"},
        {"push_to_hub": True},
        {"hub_always_push": True},
        {"hub_model_id": "me/hf_secret"},
        {"trackio_space_id": "me/hf_secret"},
    ],
)
def test_a_run_publishes_nothing_and_knows_no_secret(tmp_path: Path, config: type, fields: dict[str, Any]) -> None:
    message = refusal(tmp_path, config=config, **fields)
    assert message.startswith(f"{next(iter(fields))} is set, but a training run publishes nothing")
    assert "hf_secret" not in message


def test_completions_are_not_published_either(tmp_path: Path) -> None:
    assert "publishes nothing" in refusal(tmp_path, log_completions_hub_repo="me/completions")


def test_an_address_holds_no_password(tmp_path: Path) -> None:
    message = refusal(tmp_path, vllm_server_base_url="http://me:hf_secret@host:8000")
    assert "credentials" in message and "hf_secret" not in message


def test_what_the_model_would_be_loaded_with_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, model_init_kwargs={"token": "hf_secret"})
    assert "model_init_kwargs is set" in message and "hf_secret" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"agent: [manager\n", "not valid YAML"),
        (b"agent: manager\n  banks: gold\n", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"- agent\n", "found list, allowed: `key: value` lines"),
        (b"", "found NoneType"),
        (b"agent: manager\nbanks: gold\nagent: answer\n", "'agent' appears twice"),
        (b"agent: !!python/object/apply:os.getcwd []\n", "not valid YAML"),  # a tag that would run code
    ],
)
def test_a_broken_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=re.escape(str(path))) as caught:
        parse_recipe(MemorySFTConfig, ["--config", str(path)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("argv", [["--config", "no/such.yaml"], ["--config"], ["--config=no/such.yaml"]])
def test_a_missing_file_is_named(argv: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"--config: found (no/such.yaml|None), which is not a file"):
        parse_recipe(MemorySFTConfig, argv)


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_recipe(MemorySFTConfig, ["--help"])
    assert caught.value.code == 0
    assert "--recall_per_speaker" in capsys.readouterr().out


def test_our_fields_hide_none_of_trls() -> None:
    # A name in two of the dataclasses would silently be read by one of them only.
    ours = {item.name for item in dataclasses.fields(MemoryArguments)}
    model = {item.name for item in dataclasses.fields(MemoryModelConfig)}
    for config in (MemorySFTConfig, MemoryGRPOConfig, MemoryPPOConfig):
        trainer = {item.name for item in dataclasses.fields(config)}
        assert not ours & (trainer | model)
        assert not trainer & model
    for config, trls in ((MemorySFTConfig, SFTConfig), (MemoryGRPOConfig, GRPOConfig)):
        assert not set(config.__annotations__) & {item.name for item in dataclasses.fields(trls)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer_server": "http://127.0.0.1:8000/v1"}, "answer_server and answer_server_model go together"),
        ({"answer_server_model": "answer"}, "answer_server and answer_server_model go together"),
        ({"answer_server": "127.0.0.1:8000", "answer_server_model": "answer"}, "server address: found"),
        (
            {
                "answer_server": "http://127.0.0.1:8000/v1",
                "answer_server_model": "answer",
                "answer_adapter": "outputs/answer",
            },
            "answer_adapter and answer_server are both set",
        ),
    ],
)
def test_the_answer_agent_is_in_one_place(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    assert message in refusal(tmp_path, **fields)


def test_an_answer_agent_behind_a_server_is_one(tmp_path: Path) -> None:
    served = {"answer_server": "http://127.0.0.1:8000/v1", "answer_server_model": "answer"}
    memory, _, _ = parse_recipe(MemoryGRPOConfig, ["--config", write(tmp_path, **served), "--dry-run"])
    assert memory.has_answer_agent and memory.dry_run
    memory, _, _ = parse_recipe(MemoryGRPOConfig, ["--config", write(tmp_path)])
    assert not memory.has_answer_agent and not memory.dry_run


def test_a_frozen_answer_agent_that_quotes_needs_room_for_it(tmp_path: Path) -> None:
    quoting = {"answer_adapter": "outputs/answer", "answer_style": "quotes"}
    assert "answer_max_tokens: found 32" in refusal(tmp_path, **quoting)
    memory, _, _ = parse_recipe(
        MemoryGRPOConfig, ["--config", write(tmp_path, **quoting), "--answer_max_tokens", "128"]
    )
    assert memory.answer_max_tokens == 128


def test_another_seed_has_a_folder_of_its_own(tmp_path: Path) -> None:
    def folder(*argv: str) -> str:
        return str(parse_recipe(MemoryGRPOConfig, ["--config", write(tmp_path, seed=1), *argv])[1].output_dir)

    assert folder() == folder("--seed", "1") == "outputs/none"
    assert folder("--seed", "2") == folder("--seed=2") == "outputs/none-seed2"
    assert folder("--seed", "2", "--output_dir", "elsewhere") == "elsewhere"
