"""A run's files, and resuming after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoTokenizer

from memory_r1.errors import ConfigurationError
from memory_r1.models import check_adapter, weights_hash
from memory_r1.packaged_models import LANGUAGE_MODEL
from memory_r1.training.runs import (
    base_model_record,
    claim_run,
    last_checkpoint,
    open_run,
    remove_checkpoints,
    save_adapter,
)
from tests.tiny import load_base, load_tokenizer, lora_parameters, randomise, with_lora

RECIPE: dict[str, Any] = {"agent": "manager", "seed": 0, "reward_funcs": ["a", "b"], "learning_rate": 1e-4}
# design.md, section 6.
FILES = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "README.md",
    "training_summary.json",
}


def write_checkpoint(folder: Path, step: int, state: str | None = '{"global_step": 1}') -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter_model.safetensors").write_bytes(b"...")
    if state is not None:
        (checkpoint / "trainer_state.json").write_text(state)
    return checkpoint


def test_the_newest_whole_checkpoint_is_found_by_number(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "missing") is None
    write_checkpoint(tmp_path, 9)
    newest = write_checkpoint(tmp_path, 10)
    assert last_checkpoint(tmp_path) == str(newest)  # 10 is after 9, unlike in alphabetical order


@pytest.mark.parametrize("state", [None, "", '{"global_step": 1'])
def test_a_checkpoint_that_a_kill_left_half_written_is_passed_over(tmp_path: Path, state: str | None) -> None:
    whole = write_checkpoint(tmp_path, 2)
    write_checkpoint(tmp_path, 3, state)
    assert last_checkpoint(tmp_path) == str(whole)


def test_what_only_looks_like_a_checkpoint_is_none(tmp_path: Path) -> None:
    for name in ("checkpoint-best", "checkpoint-3.part", "old-checkpoint-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) is None


def test_a_fresh_folder_is_claimed_and_the_same_recipe_goes_on_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "run"
    assert open_run(folder, RECIPE) == (False, None)
    assert not folder.exists()  # nothing is written before training is ready
    claim_run(folder, RECIPE)
    checkpoint = write_checkpoint(folder, 5)
    assert open_run(folder, RECIPE) == (False, str(checkpoint))
    (folder / "training_summary.json").write_text("{}")
    assert open_run(folder, RECIPE) == (True, str(checkpoint))


def test_values_that_json_writes_otherwise_are_the_same_recipe(tmp_path: Path) -> None:
    recipe = {**RECIPE, "modules": ("q", "v"), "path": Path("x")}
    claim_run(tmp_path, recipe)
    assert open_run(tmp_path, recipe) == (False, None)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"seed": 1}, "seed"), ({"extra": 1}, "extra"), ({"seed": 1, "agent": "answer"}, "agent, seed")],
)
def test_another_recipe_is_refused_and_changes_nothing(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    claim_run(tmp_path, RECIPE)
    write_checkpoint(tmp_path, 5)
    before = (tmp_path / "recipe.json").read_bytes()
    with pytest.raises(ConfigurationError, match=f"another recipe \\(differs in: {named}\\)"):
        open_run(tmp_path, {**RECIPE, **change})
    assert (tmp_path / "recipe.json").read_bytes() == before


def test_a_recipe_without_a_key_is_another_one(tmp_path: Path) -> None:
    claim_run(tmp_path, RECIPE)
    with pytest.raises(ConfigurationError, match="learning_rate"):
        open_run(tmp_path, {key: value for key, value in RECIPE.items() if key != "learning_rate"})


def summary(base: Path, **changes: Any) -> dict[str, Any]:
    return {
        "agent": "manager",
        "method": "grpo",
        "recipe": RECIPE,
        "base_model": base_model_record(str(base), str(base)),
        "steps": 2,
        "seed": 0,
        "trainable_parameters": 1234,
        "loss": "dr_grpo",
        "wall_seconds": 12.5,
        "first_reward": 0.25,
        "last_reward": None,
        "best_validation": 0.5,
        "git_revision": "abc",
        "versions": {"trl": "1"},
        "log_history": [{"loss": 0.1, "step": 1}],
        **changes,
    }


def test_an_adapter_folder_holds_what_design_says_and_loads_with_peft_alone(tiny_model: Path, tmp_path: Path) -> None:
    policy, tokenizer = with_lora(load_base(tiny_model), seed=1), load_tokenizer(tiny_model)
    policy.add_adapter("ref", policy.peft_config["default"])  # as TRL's KL term does: not to be saved
    randomise(lora_parameters(policy, "ref"), seed=2)
    save_adapter(policy, tokenizer, tmp_path, summary(tiny_model))
    assert {path.name for path in tmp_path.iterdir()} == FILES
    stored = load_file(tmp_path / "adapter_model.safetensors")
    ours = {name.replace(".default.", "."): value for name, value in lora_parameters(policy).items()}
    assert stored.keys() == ours.keys()
    assert all(torch.equal(stored[name], value) for name, value in ours.items())
    ids = torch.tensor([tokenizer("Ann lives in Lisbon")["input_ids"]])
    policy.eval()
    with torch.no_grad():
        loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(input_ids=ids).logits, policy(input_ids=ids).logits, rtol=0, atol=1e-5)
        base = load_base(tiny_model)
        base.load_adapter(str(tmp_path))  # transformers' own way
        torch.testing.assert_close(base(input_ids=ids).logits, policy(input_ids=ids).logits, rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template
    check_adapter(tmp_path, str(tiny_model))


def test_the_summary_says_what_was_run_and_the_card_what_matters_of_it(tiny_model: Path, tmp_path: Path) -> None:
    save_adapter(with_lora(load_base(tiny_model)), load_tokenizer(tiny_model), tmp_path, summary(tiny_model))
    assert json.loads((tmp_path / "training_summary.json").read_text()) == summary(tiny_model)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\nbase_model: tiny-llama\n")
    for said in (
        "# manager agent, GRPO",
        "| loss | dr_grpo |",
        "2 steps (seed 0)",
        "1,234",
        "0.25 / None",
        weights_hash(str(tiny_model)),
    ):
        assert str(said) in card
    assert str(tiny_model.parent) not in card


def test_a_number_that_json_does_not_have_does_not_cost_the_run(tiny_model: Path, tmp_path: Path) -> None:
    # TRL logs NaN for a reward that no completion of a step had.
    history = [{"rewards/x/mean": float("nan"), "loss": float("inf"), "step": 1}]
    content = summary(tiny_model, log_history=history)
    save_adapter(with_lora(load_base(tiny_model)), load_tokenizer(tiny_model), tmp_path, content)
    stored = json.loads((tmp_path / "training_summary.json").read_text(), parse_constant=pytest.fail)
    assert stored["log_history"] == [{"rewards/x/mean": None, "loss": None, "step": 1}]


def test_saving_again_replaces_what_was_there(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    for seed in (1, 2):
        policy = with_lora(load_base(tiny_model), seed=seed)
        save_adapter(policy, tokenizer, tmp_path, summary(tiny_model, seed=seed))
    assert {path.name for path in tmp_path.iterdir()} == FILES
    name, value = next(iter(lora_parameters(policy).items()))
    assert torch.equal(load_file(tmp_path / "adapter_model.safetensors")[name.replace(".default.", ".")], value)
    assert json.loads((tmp_path / "training_summary.json").read_text())["seed"] == 2


def test_the_summary_is_written_last(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any, **options: Any) -> None:
        raise InterruptedError

    tokenizer = load_tokenizer(tiny_model)
    monkeypatch.setattr(tokenizer, "save_pretrained", stop)
    with pytest.raises(InterruptedError):
        save_adapter(with_lora(load_base(tiny_model)), tokenizer, tmp_path, summary(tiny_model))
    assert list(tmp_path.iterdir()) == []  # a run stopped here is unfinished and leaves no file


def test_a_base_model_is_recorded_by_name_and_weights(tiny_model: Path) -> None:
    record = base_model_record(str(tiny_model), str(tiny_model))
    assert record == {"id": "tiny-llama", "weights_sha256": weights_hash(str(tiny_model))}
    embedded = base_model_record(str(tiny_model), LANGUAGE_MODEL.name)
    assert embedded["id"] == LANGUAGE_MODEL.hub_id
    assert base_model_record(str(tiny_model), "some/hub-id")["id"] == "some/hub-id"


def test_a_finished_run_keeps_no_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1)
    write_checkpoint(tmp_path, 2, None)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"...")
    remove_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter_model.safetensors"]
