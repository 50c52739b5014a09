"""PPO credits tokens against its critic's values: on a task that needs it, across a resume, and in each number."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import Trainer
from trl import GRPOTrainer

from memory_r1.errors import TrainingError
from memory_r1.training.critic import CRITIC_FILE
from memory_r1.training.ppo import MemoryPPOTrainer, refuse_sharded_layers
from memory_r1.training.restore_start import RestoreStart
from memory_r1.training.trainer_configs import MemoryPPOConfig
from tests.tiny import load_base, load_tokenizer, lora_parameters, messages, randomise, sharpen, snapshot, with_lora

Reward = Callable[..., list[float | None]]
PROMPTS = messages(["Where?", "Who is it?"])
ROWS = [{"prompt": prompt, "worth": worth} for prompt, worth in zip(PROMPTS, (1.0, 3.0), strict=True)]
EXPLAINED = "critic/explained_variance"
OWN_FIELDS = {
    *("value_learning_rate", "gamma", "gae_lambda", "vf_coef", "cliprange_value", "value_warmup_steps"),
    *("whiten_advantages", "kl_in_reward", "shared_prefix"),
}


def worth_reward(completions: Sequence[Any], worth: Sequence[float], **columns: Any) -> list[float | None]:
    return list(worth)


def length_reward(completions: Sequence[Any], completion_ids: Sequence[Any], **columns: Any) -> list[float | None]:
    """Return rewards that differ within a group."""
    return [sum(ids) / 1000 for ids in completion_ids]


def make_trainer(
    tiny_model: Path, folder: Path, reward: Reward = worth_reward, policy: Any = None, **options: Any
) -> MemoryPPOTrainer:
    fields: dict[str, Any] = {"max_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 4}
    inherited = {item for item in MemoryPPOConfig.__dataclass_fields__ if item not in OWN_FIELDS}
    fields |= {name: options.pop(name) for name in list(options) if name in inherited}
    return MemoryPPOTrainer(
        model=policy or with_lora(sharpen(load_base(tiny_model)), seed=1),
        args=MemoryPPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            num_generations=2,
            max_completion_length=4,
            logging_steps=1,
            lr_scheduler_type="constant",
            **fields,
        ),
        processing_class=load_tokenizer(tiny_model),
        train_dataset=Dataset.from_list(options.pop("rows", ROWS)),
        reward_funcs=[reward],
        **options,
    )


def rollout(trainer: MemoryPPOTrainer) -> dict[str, Any]:
    """Return a batch of two completions per prompt, as in a step."""
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer._generate_and_score_completions([dict(row) for row in ROWS for _ in range(2)])


def fix_completions(*completions: list[int]) -> Callable[..., dict[str, Any]]:
    """Make a rollout function that always answers row b of a batch with completion b."""

    def roll(prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        ids = [trainer.processing_class.apply_chat_template(prompt, return_dict=False) for prompt in prompts]
        chosen = [completions[row % len(completions)] for row in range(len(prompts))]
        return {"prompt_ids": ids, "completion_ids": chosen, "logprobs": None}

    return roll


FOUR = fix_completions([10, 11, 12, 2], [13, 2], [14, 15, 2], [16, 17, 18, 19])


def teach(critic: Any) -> None:
    """Set weights that tell states apart, like those of a trained critic."""
    with torch.no_grad():
        critic.head.weight.copy_(torch.randn(critic.head.weight.shape, generator=torch.Generator().manual_seed(5)))


# A task that needs a state baseline: the reward is the prompt's, +16 or -16, plus 1 if the
# completion's *first* token is of the prompt's kind (even or odd). It comes only with the last token. Without a critic,
# the prompt's share drowns the signal for the policy.
STATES = (0, 1)
STEPS = 240
TASK = [
    {"prompt": prompt, "state": state}
    for prompt, state in zip(messages([" ".join(["Ann"] * 9), " ".join(["Ben"] * 9)]), STATES, strict=True)
] * 8


def play(tiny_model: Path, folder: Path, value_learning_rate: float, seed: int) -> tuple[float, list[float]]:
    """Return how often the last 30 batches hit the kind, and the explained variance of all batches."""
    hits: list[float] = []

    def reward(
        completions: Sequence[Any], state: Sequence[int], completion_ids: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        hit = [float(ids[0] % 2 == kind) for ids, kind in zip(completion_ids, state, strict=True)]
        hits.append(sum(hit) / len(hit))
        return [one + (16.0 if kind else -16.0) for one, kind in zip(hit, state, strict=True)]

    torch.manual_seed(seed)
    base = sharpen(load_base(tiny_model))
    with torch.no_grad():
        base.model.norm.weight.mul_(3.0)  # fresh logits hardly differ, and no adapter could sharpen them
    trainer = make_trainer(
        tiny_model,
        folder,
        reward,
        with_lora(base, seed=seed, scale=0.01),
        rows=TASK,
        max_steps=STEPS,
        per_device_train_batch_size=16,
        num_iterations=2,
        learning_rate=0.005,
        seed=seed,
        value_learning_rate=value_learning_rate,
        cliprange_value=100.0,
        value_warmup_steps=30,
    )
    # The prompt ends with its state.
    trainer.processing_class.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    trainer.train()
    explained = [row["critic/explained_variance"] for row in trainer.state.log_history if EXPLAINED in row]
    return sum(hits[-30:]) / 30, explained


@pytest.mark.slow
def test_a_delayed_reward_that_depends_on_the_state_is_learnt_with_the_critic_only(
    tiny_model: Path, tmp_path: Path
) -> None:
    with_critic = [play(tiny_model, tmp_path / f"with{seed}", 0.1, seed) for seed in (0, 3)]
    without = [play(tiny_model, tmp_path / f"without{seed}", 0.0, seed) for seed in (0, 3)]
    assert sum(hits for hits, _ in with_critic) / 2 > 0.85
    assert sum(hits for hits, _ in without) / 2 < 0.7
    for _, explained in with_critic:
        assert sum(explained[-30:]) / 30 > 0.5
    assert all(value == 0.0 for _, explained in without for value in explained)


def test_training_that_was_interrupted_ends_where_it_would_have(tiny_model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "num_iterations": 2}
    options |= {"learning_rate": 0.01, "value_learning_rate": 0.1, "reward": length_reward}
    through = make_trainer(tiny_model, tmp_path, **options)
    through.train()
    resumed = make_trainer(tiny_model, tmp_path, **options)
    checkpoint = tmp_path / "checkpoint-2"
    halfway = load_file(checkpoint / CRITIC_FILE)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    expected, found = lora_parameters(through.model), lora_parameters(resumed.model)
    for name, value in expected.items():
        # A fused AdamW's rounding depends on the memory addresses of its tensors.
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    torch.testing.assert_close(resumed.critic.head.weight, through.critic.head.weight, rtol=0, atol=1e-6)
    assert (through.critic.head.weight - halfway["weight"]).abs().max() > 1e-2
    assert halfway["weight.step"] == 2
    with safe_open(tmp_path / CRITIC_FILE, "pt") as file:
        assert file.metadata() == {"step": "4", "policy_step": "4"}
    # PEFT does not save the critic, which is beside the adapter after training.
    assert not [name for name in load_file(checkpoint / "adapter_model.safetensors") if "head" in name]
    assert torch.equal(load_file(tmp_path / CRITIC_FILE)["weight"], resumed.critic.head.weight)


def test_a_checkpoint_without_critic_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    make_trainer(tiny_model, tmp_path, save_strategy="steps", save_steps=1).train()
    (tmp_path / "checkpoint-1" / CRITIC_FILE).unlink()
    with pytest.raises(TrainingError, match="not a PPO checkpoint"):
        make_trainer(tiny_model, tmp_path, max_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize(("start", "policy_step"), [(0.4, "2"), (0.5, "0"), (None, "2")])
def test_the_critic_that_is_kept_is_that_of_the_best_checkpoint(
    start: float | None, policy_step: str, tiny_model: Path, tmp_path: Path
) -> None:
    scores = {2: 0.5, 4: 0.3}
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_score", "greater_is_better": True}
    trainer = make_trainer(tiny_model, tmp_path, max_steps=4, eval_dataset=Dataset.from_list(ROWS), **options)

    def evaluate(*args: Any, **kwargs: Any) -> dict[str, float]:
        trainer.log({"eval_score": scores[trainer.state.global_step]})
        return {"eval_score": scores[trainer.state.global_step]}

    trainer.evaluate = evaluate  # type: ignore[method-assign]
    restore_start = RestoreStart(tmp_path)
    restore_start.score = start
    restore_start.on_train_begin = lambda *args, **kwargs: None  # type: ignore[method-assign]
    trainer.add_callback(restore_start)
    trainer.train()
    best, last = (load_file(tmp_path / f"checkpoint-{step}" / CRITIC_FILE)["weight"] for step in (2, 4))
    kept = load_file(tmp_path / CRITIC_FILE)["weight"]
    assert torch.equal(kept, best) and not torch.equal(kept, last)
    with safe_open(tmp_path / CRITIC_FILE, "pt") as file:
        assert file.metadata() == {"step": "2", "policy_step": policy_step}


@pytest.mark.parametrize("kl", [{"beta": 0.1}, {"kl_in_reward": 0.1}])
def test_the_reference_is_no_pass_of_the_policy(kl: dict[str, float], tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path, rollout_func=FOUR, **kl)
    caught: list[bool] = []
    before = trainer._hidden.of_completions
    trainer._hidden.of_completions = lambda *args: caught.append(True) or before(*args)  # type: ignore[method-assign]
    assert "ref_per_token_logps" in rollout(trainer)
    assert len(caught) == len(trainer._passes) == 1


@pytest.mark.parametrize("batch_size", [None, 2, 3])
def test_values_are_the_same_whether_prompts_are_shared_or_not(
    batch_size: int | None, tiny_model: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(tiny_model, tmp_path)
    ids = torch.tensor(
        [
            [0, 0, 5, 6, 7, 8, 9, 10],
            [3, 4, 5, 6, 7, 11, 12, 0],
            [0, 0, 5, 6, 7, 13, 0, 0],
            [3, 4, 5, 6, 7, 14, 15, 16],
            [0, 0, 5, 6, 7, 17, 18, 19],
        ]
    )
    mask = (ids != 0).long()
    teach(trainer.critic)
    for shared in (True, False):
        trainer.shared_prefix = shared
        with torch.no_grad():
            trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 3, batch_size=batch_size)
    packed, plain = (found.values for found in trainer._passes)
    assert packed.shape == (5, 3)  # no hidden states are kept, which would be 64 times as many
    real = mask[:, 5:].bool()
    torch.testing.assert_close(packed[real], plain[real], rtol=0, atol=1e-3)
    assert plain[real].std() > 0.1


def test_the_reward_comes_with_the_last_token_and_reaches_all_before_it(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path, rollout_func=FOUR, whiten_advantages=False, gamma=0.5, gae_lambda=1.0)
    batch = rollout(trainer)
    # With a critic of value 0, the advantage is the discounted reward, 1 for the first prompt and 3 for the other.
    expected = [[0.125, 0.25, 0.5, 1.0], [0.5, 1.0, 0.0, 0.0], [0.75, 1.5, 3.0, 0.0], [0.375, 0.75, 1.5, 3.0]]
    assert batch["advantages"].tolist() == expected
    assert batch["returns"].tolist() == expected
    assert batch["scored_tokens"] == 13
    assert list(trainer._logs["advantages"]) == pytest.approx([1.875 / 4, 0.75, 1.75, 5.625 / 4])


def test_returns_are_unwhitened_and_advantages_are_whitened(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path, rollout_func=FOUR)
    teach(trainer.critic)
    batch = rollout(trainer)
    mask = batch["completion_mask"].bool()
    assert batch["old_values"][mask].std() > 0.1
    advantages = batch["advantages"][mask]
    assert advantages.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert advantages.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    # At a row's last token the advantage is reward minus value, so that the return is the reward itself.
    last = [3, 1, 2, 3]
    assert batch["returns"][range(4), last].tolist() == pytest.approx([1.0, 1.0, 3.0, 3.0], abs=1e-5)


@pytest.mark.parametrize("num_iterations", [1, 2])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_old_values_and_log_probabilities_are_those_of_the_sampling_policy(
    num_iterations: int, beta: float, tiny_model: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(tiny_model, tmp_path, rollout_func=FOUR, num_iterations=num_iterations, beta=beta)
    teach(trainer.critic)
    randomise(lora_parameters(trainer.model), seed=9)  # away from the reference
    batch = rollout(trainer)
    passes = len(trainer._passes)
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    with torch.no_grad():
        log_probs, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 4)
    real = batch["completion_mask"].bool()
    torch.testing.assert_close(batch["old_per_token_logps"][real], log_probs[real])
    torch.testing.assert_close(batch["old_values"][real], trainer._passes[-1].values[real])
    assert passes == 1  # the policy is not rerun after TRL; the reference leaves nothing
    assert not batch["old_values"].requires_grad


def test_the_kl_to_the_start_is_taken_from_each_tokens_reward(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        tiny_model, tmp_path, rollout_func=FOUR, kl_in_reward=0.5, whiten_advantages=False, gae_lambda=1.0
    )
    assert trainer.beta == trainer.args.beta == 0.0
    randomise(lora_parameters(trainer.model), seed=9)
    batch = rollout(trainer)
    real = batch["completion_mask"].bool()
    divergence = (batch["old_per_token_logps"] - batch["ref_per_token_logps"]).masked_fill(~real, 0.0)
    assert divergence.abs().max() > 0.01
    to_come = divergence.flip(1).cumsum(1).flip(1)
    worth = torch.tensor([[1.0], [1.0], [3.0], [3.0]])
    torch.testing.assert_close(batch["advantages"][real], (worth - 0.5 * to_come)[real])
    assert trainer._metrics["train"]["reward_kl"][0] == pytest.approx(divergence[real].mean().item())
    trainer._compute_loss(trainer.model, batch)
    assert "kl" not in trainer._metrics["train"]  # the loss has no such term


def test_completions_that_no_reward_knows_teach_nothing(tiny_model: Path, tmp_path: Path) -> None:
    def some(completions: Sequence[Any], worth: Sequence[float], **columns: Any) -> list[float | None]:
        return [None if value == 1.0 else value for value in worth]

    trainer = make_trainer(tiny_model, tmp_path, some, rollout_func=FOUR)
    batch = rollout(trainer)
    assert batch["scored"].tolist() == [[False] * 4, [False] * 4, [True] * 3 + [False], [True] * 4]
    assert (batch["advantages"][:2] == 0).all()
    assert batch["advantages"].isfinite().all()
    assert trainer._metrics["train"]["critic/return_mean"][0] > 1.5  # unscored rows are not counted as zeros
    gradients = value_gradients(trainer)
    trainer._compute_loss(trainer.model, batch)
    known = gradients.pop()
    batch["returns"][:2] = 1e6
    trainer._compute_loss(trainer.model, batch)
    assert torch.equal(gradients.pop(), known)


def value_gradients(trainer: MemoryPPOTrainer) -> list[torch.Tensor]:
    """Record the gradients of the critic's steps, without taking them."""
    found: list[torch.Tensor] = []

    def note(*_: Any) -> None:
        found.append(trainer.critic.head.weight.grad.clone())
        trainer.critic.zero_grad()

    trainer.critic.step = note  # type: ignore[method-assign]
    return found


def test_the_value_loss_is_a_mean_over_the_tokens_however_they_are_split(tiny_model: Path, tmp_path: Path) -> None:
    def gradients(**fields: Any) -> list[torch.Tensor]:
        trainer = make_trainer(tiny_model, tmp_path, rollout_func=FOUR, learning_rate=1e-30, **fields)
        found = value_gradients(trainer)
        trainer.train()
        return found

    (whole,) = gradients(per_device_train_batch_size=4)
    assert whole.norm() > 0
    (accumulated,) = gradients(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    torch.testing.assert_close(accumulated, whole, rtol=1e-4, atol=1e-6)
    # Two steps on half of the batch each are two steps' worth.
    halves = gradients(per_device_train_batch_size=2, steps_per_generation=2, max_steps=2)
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, rtol=1e-4, atol=1e-6)


def test_in_the_warm_up_the_critic_learns_and_the_policy_does_not(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        tiny_model, tmp_path, length_reward, max_steps=2, value_warmup_steps=2, learning_rate=0.1, beta=0.1
    )
    before = snapshot(lora_parameters(trainer.model))
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in lora_parameters(trainer.model).items())
    assert trainer.critic.head.weight.abs().max() > 0
    after = make_trainer(tiny_model, tmp_path, length_reward, max_steps=3, value_warmup_steps=2, learning_rate=0.1)
    after.train()
    assert any(not torch.equal(value, before[name]) for name, value in lora_parameters(after.model).items())


def test_a_reward_that_a_whole_group_shares_still_moves_the_policy(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path, learning_rate=0.01)
    before = snapshot(lora_parameters(trainer.model))
    trainer.train()
    assert any(not torch.equal(value, before[name]) for name, value in lora_parameters(trainer.model).items())


def test_the_log_shows_how_the_critic_does(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model, tmp_path, length_reward, max_steps=4, num_iterations=2, learning_rate=0.1)
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert {EXPLAINED, "critic/value_mean", "critic/return_mean", "critic/loss", "critic/clip_fraction"} <= set(first)
    assert first[EXPLAINED] == first["critic/value_mean"] == 0.0
    assert first["critic/loss"] > 0
    # In the second epoch over the same completions, the policy has changed since it sampled them.
    assert first["approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert second["approx_kl"] > 1e-4


@pytest.mark.parametrize(
    ("engine", "stage", "name"), [(DistributedType.FSDP, 0, "FSDP"), (DistributedType.DEEPSPEED, 3, "ZeRO-3")]
)
def test_engines_that_shard_layers_are_refused(engine: DistributedType, stage: int, name: str) -> None:
    with pytest.raises(TrainingError, match=f"PPO under {name}: .* or GRPO"):
        refuse_sharded_layers(engine, stage)


@pytest.mark.parametrize(
    ("engine", "stage"), [(DistributedType.NO, 0), (DistributedType.MULTI_GPU, 0), (DistributedType.DEEPSPEED, 2)]
)
def test_engines_that_keep_layers_whole_are_not(engine: DistributedType, stage: int) -> None:
    refuse_sharded_layers(engine, stage)


def test_the_trainer_asks_its_engine(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("memory_r1.training.ppo.refuse_sharded_layers", lambda *engine: asked.append(engine))
    make_trainer(tiny_model, tmp_path)
    assert asked == [(DistributedType.NO, 0)]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (GRPOTrainer._generate_and_score_completions, ["self", "inputs"]),
        (GRPOTrainer._compute_loss, ["self", "model", "inputs"]),
        (Trainer._save_optimizer_and_scheduler, ["self", "output_dir"]),
        (Trainer._load_optimizer_and_scheduler, ["self", "checkpoint"]),
    ],
)
def test_overridden_methods_take_what_they_took(method: Any, expected: list[str]) -> None:
    assert list(inspect.signature(method).parameters) == expected


def test_trl_still_calls_the_overridden_methods_and_takes_an_advantage_for_each_token() -> None:
    source = inspect.getsource(GRPOTrainer)
    for name in ("_generate_and_score_completions", "_compute_loss"):
        assert f"self.{name}(" in source
    loss = inspect.getsource(GRPOTrainer._compute_loss)
    assert "if advantages.dim() == 1" in loss
    assert 'inputs.get("old_per_token_logps")' in loss
    checkpoint = inspect.getsource(Trainer._save_checkpoint)
    # The critic must be written before the file that marks a checkpoint as complete.
    assert checkpoint.index("self._save_optimizer_and_scheduler(") < checkpoint.index("self.state.save_to_json(")


def test_private_methods_are_overridden_only_where_the_class_says() -> None:
    private = {name for name in vars(MemoryPPOTrainer) if name.startswith("_") and not name.startswith("__")}
    assert private & set(dir(GRPOTrainer)) == {
        *("_get_per_token_logps_and_entropies", "_calculate_rewards", "_generate_and_score_completions"),
        *("_compute_loss", "_save_optimizer_and_scheduler", "_load_optimizer_and_scheduler"),
    }
