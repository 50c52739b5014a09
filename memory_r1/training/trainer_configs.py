"""TRL's configurations of trainers and models, with our fields, every field checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig, ModelConfig, SFTConfig

from memory_r1.errors import ConfigurationError
from memory_r1.inference.endpoint import check_address
from memory_r1.training.field_checks import closest, validate_fields

# Fields of TRL's `ModelConfig` that would be ignored: LoRA is always on, without dropout; 4-bit is always NF4.
UNUSED_MODEL_FIELDS = (
    "use_peft",
    "lora_dropout",
    "attn_implementation",
    "load_in_8bit",
    "bnb_4bit_quant_type",
    "use_bnb_nested_quant",
    "bnb_4bit_quant_storage",
    "model_revision",
    "use_dora",
    "use_rslora",
    "lora_modules_to_save",
    "lora_target_parameters",
)
# Allowed values of `report_to`; transformers refuses others only once the model is loaded.
REPORTERS = ("none", "all", "tensorboard", "wandb", "trackio", "mlflow")

# Prefixes of the fields by which transformers and TRL publish a run. They would write a token into the run's record
# and upload the whole folder at every save, including sampled completions and a pickle.
PUBLISHING = ("hub_", "push_to_hub", "trackio_", "log_completions_hub_")

# Fields of `MemoryGRPOConfig` that turn groups into advantages, which is the critic's job in PPO.
GROUP_FIELDS = (
    *("scale_rewards", "multi_objective_aggregation", "dynamic_sampling_rounds", "variance_sampling", "best_of_group"),
)
# TRL checks `loss_type` only in the first step, after a model was loaded and a rollout generated.
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo")
# The losses that are PPO's clipped surrogate; they differ only in averaging.
CLIPPED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo")


@dataclass
class MemorySFTConfig(SFTConfig):
    """TRL's `SFTConfig` with every field checked, patience, and a budget of CPU seconds."""

    patience: int = field(
        default=0,
        metadata={"help": "Stop after this many validations in a row without a lower loss; 0 never stops early."},
    )
    max_cpu_seconds: float = field(
        default=0.0, metadata={"help": "Stop once training has used this many CPU seconds; 0 never stops early."}
    )

    def __post_init__(self) -> None:
        validate_fields(self)
        _check_run(self, "eval_loss")
        if self.patience and self.eval_strategy == "no":
            raise ConfigurationError("patience is set but eval_strategy is 'no', so nothing validates; give steps")
        super().__post_init__()


@dataclass
class MemoryGRPOConfig(GRPOConfig):
    """TRL's `GRPOConfig`, the shared-prefix switch and remedies for flat rewards, with every field checked."""

    shared_prefix: bool = field(
        default=True, metadata={"help": "Compute a group's shared prompt once in the log-probability pass."}
    )
    dynamic_sampling_rounds: int = field(
        default=0,
        metadata={
            "help": "Maximum number of extra rounds that replace groups without variance by fresh prompts; 0 is off."
        },
    )
    entropy_floor: float = field(
        default=0.0,
        metadata={
            "help": "Stop once the mean entropy of ten logged steps is below this, in nats per token; 0 never stops."
        },
    )
    best_of_group: bool = field(
        default=False,
        metadata={
            "help": "Imitate the best completion of each group instead of weighing all by their advantages: iterated "
            "best-of-G SFT, the control with the same information as GRPO."
        },
    )
    variance_sampling: float = field(
        default=0.0,
        metadata={
            "help": "Share of prompts drawn by the recent variance of their rewards, 0 to 1; 0 shuffles all prompts."
        },
    )

    def __post_init__(self) -> None:
        validate_fields(self)
        _check_run(self, "eval_score")
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            raise ConfigurationError("load_best_model_at_end is set but metric_for_best_model is not; give eval_score")
        if self.max_completion_length is None:
            raise ConfigurationError("max_completion_length: found null, allowed: int")
        super().__post_init__()
        if self.loss_type not in LOSSES:
            raise ConfigurationError(
                f"loss_type: found '{self.loss_type}', allowed: {', '.join(LOSSES)}{closest(self.loss_type, LOSSES)}"
            )
        if self.chat_template_kwargs:
            raise ConfigurationError("chat_template_kwargs is set, but evaluations do not use it; leave it out")
        if self.variance_sampling > 1:
            raise ConfigurationError(f"variance_sampling: found {self.variance_sampling}, allowed: 0 to 1")
        if self.dynamic_sampling_rounds and self.log_completions:
            # TRL would also log discarded completions, in columns of unequal length.
            raise ConfigurationError(
                "log_completions is set with dynamic_sampling_rounds; leave it out: completions.jsonl holds all of them"
            )
        if self.best_of_group and self.per_device_train_batch_size % self.num_generations:
            raise ConfigurationError(
                f"best_of_group needs whole groups: per_device_train_batch_size {self.per_device_train_batch_size} is "
                f"no multiple of num_generations {self.num_generations}"
            )
        if self.shared_prefix:
            _refuse_cut_groups(self)


@dataclass
class MemoryPPOConfig(MemoryGRPOConfig):
    """`MemoryGRPOConfig` plus the critic's fields; `num_iterations` is PPO's epochs over a batch of completions."""

    value_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the critic's AdamW."})
    gamma: float = field(default=1.0, metadata={"help": "Discount of rewards per token."})
    gae_lambda: float = field(default=0.95, metadata={"help": "Lambda of generalised advantage estimation."})
    vf_coef: float = field(default=0.5, metadata={"help": "Weight of the value loss before gradients are clipped."})
    cliprange_value: float = field(
        default=0.2, metadata={"help": "How far a value may move from its value when sampled, in units of reward."}
    )
    value_warmup_steps: int = field(
        default=0, metadata={"help": "Number of first steps in which only the critic learns."}
    )
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Scale the advantages of a batch to mean 0 and variance 1."}
    )
    kl_in_reward: float = field(
        default=0.0,
        metadata={"help": "Coefficient of the KL to the starting policy in each token's reward; 0 disables it."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "gae_lambda"):
            if getattr(self, name) > 1:
                raise ConfigurationError(f"{name}: found {getattr(self, name)}, allowed: at most 1")
        if self.loss_type not in CLIPPED_LOSSES:
            raise ConfigurationError(
                f"loss_type: found '{self.loss_type}', allowed with PPO: {', '.join(CLIPPED_LOSSES)}"
            )
        for item in dataclasses.fields(self):
            if item.name in GROUP_FIELDS and getattr(self, item.name) != item.default:
                raise ConfigurationError(f"{item.name} is set, but PPO has a critic in its place; leave it out")


@dataclass
class MemoryModelConfig(ModelConfig):
    """TRL's `ModelConfig` with every field checked."""

    def __post_init__(self) -> None:
        validate_fields(self)
        super().__post_init__()
        for name in UNUSED_MODEL_FIELDS:
            default = next(item.default for item in dataclasses.fields(ModelConfig) if item.name == name)
            if getattr(self, name) != default:
                raise ConfigurationError(f"{name} is set, but the recipes do not use it yet; leave it out")
        if not self.model_name_or_path:
            raise ConfigurationError("model_name_or_path is not set; give a folder, a hub id or SmolLM2-135M-Instruct")


def _check_run(config: Any, metric: str) -> None:
    """Check the fields common to all trainers that TRL checks too late or never; `metric` picks checkpoints."""
    for item in dataclasses.fields(config):
        if item.name.startswith(PUBLISHING) and getattr(config, item.name) != item.default:
            raise ConfigurationError(
                f"{item.name} is set, but a training run publishes nothing and keeps no token, since its folder holds "
                "sampled completions too; leave it out, and upload the files you choose after the run"
            )
    if config.model_init_kwargs:
        raise ConfigurationError("model_init_kwargs is set, but the recipes load the model themselves; leave it out")
    if address := getattr(config, "vllm_server_base_url", None):
        check_address(address)
    if config.trust_remote_code:
        raise ConfigurationError("trust_remote_code: found true, allowed: false (the project runs no remote code)")
    if config.metric_for_best_model not in (None, metric):
        raise ConfigurationError(f"metric_for_best_model: found '{config.metric_for_best_model}', allowed: {metric}")
    reporters = [config.report_to] if isinstance(config.report_to, str) else config.report_to or []
    for name in reporters:
        if name not in REPORTERS:
            raise ConfigurationError(
                f"report_to: found '{name}', allowed: {', '.join(REPORTERS)}{closest(str(name), REPORTERS)}"
            )


def _refuse_cut_groups(config: GRPOConfig) -> None:
    """Refuse micro-batches that cut a group, unless ranks split groups evenly and a micro-batch holds a rank's part.

    Otherwise a group's prompt would run in several passes, which `shared_prefix` is meant to avoid.
    """
    rows, size = config.per_device_train_batch_size, config.num_generations
    split_across_ranks = config.steps_per_generation == 1 and size % rows == 0
    if rows % size and not split_across_ranks:
        raise ConfigurationError(
            f"per_device_train_batch_size: found {rows}, allowed with shared_prefix: a multiple of num_generations "
            f"({size}), so that micro-batches hold whole groups; or a divisor of it if steps_per_generation (now "
            f"{config.steps_per_generation}) is 1 and the ranks share each group"
        )
