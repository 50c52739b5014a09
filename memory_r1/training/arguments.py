"""A recipe's fields and their validation. No layer below takes a config object.

A recipe is one flat YAML file over three dataclasses: `MemoryArguments` (ours), TRL's trainer config (with a few more
fields) and TRL's `ModelConfig`. TRL does not check values from YAML, so every field of all three is checked against its
type, choices and range before a model is loaded.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig, ModelConfig, SFTConfig

from memory_r1.agents.prompts import ANSWER_INSTRUCTIONS, ANSWER_TOKENS
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
BASE = "base"
"""Stands for the base model in place of an adapter folder."""
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
class MemoryArguments:
    """The agent, the data and the rewards of a run; fields of the trainer itself are TRL's."""

    agent: str = field(metadata={"help": "Which agent to train.", "choices": ["manager", "answer"]})
    dataset: str = field(
        default="synthetic",
        metadata={
            "help": "'synthetic', 'everyday' (without gold; 'everyday-labelled' has it), 'locomo', or a JSONL file of "
            "your own dialogues."
        },
    )
    dialogue_seed: int = field(default=0, metadata={"help": "Seed of the synthetic generator and of sampling."})
    first_dialogue: int = field(
        default=0,
        metadata={"help": "Index of the first training dialogue to use, so that RL and SFT can use different ones."},
    )
    train_dialogues: int | None = field(
        default=None, metadata={"help": "Number of training dialogues to use; default: all."}
    )
    validation_dialogues: int = field(default=4, metadata={"help": "Number of dialogues that pick the checkpoint."})
    validation: str = field(
        default="rows",
        metadata={
            "help": "What picks the checkpoint in RL: the rewards of greedy completions on validation rows or, for a "
            "manager, token F1 of all questions after it has played the validation dialogues itself.",
            "choices": ["rows", "played"],
        },
    )
    max_train_rows: int | None = field(default=None, metadata={"help": "Maximum number of training rows."})
    max_validation_rows: int | None = field(default=32, metadata={"help": "Maximum number of validation rows."})
    banks: str = field(
        default="gold",
        metadata={
            "help": "How the bank before a turn is rebuilt: by gold operations, by LoCoMo's observations, by storing "
            "every turn as it was said, or by the manager in `manager_adapter`.",
            "choices": ["gold", "observations", "turns", "manager"],
        },
    )
    manager_adapter: str | None = field(
        default=None, metadata={"help": "Memory Manager that rebuilds the banks when `banks: manager`."}
    )
    answer_adapter: str | None = field(
        default=None,
        metadata={
            "help": "The frozen Answer Agent of a manager's outcome reward: an adapter folder, or 'base' for the base "
            "model itself, as in the paper."
        },
    )
    answer_server: str | None = field(
        default=None,
        metadata={
            "help": "OpenAI-compatible server that answers in place of `answer_adapter`, such as "
            "http://127.0.0.1:8000/v1. If it needs a key, set the environment variable ANSWER_SERVER_KEY."
        },
    )
    answer_server_model: str | None = field(
        default=None, metadata={"help": "The name of the Answer Agent (its LoRA module) on `answer_server`."}
    )
    warm_start: str | None = field(
        default=None,
        metadata={"help": "Adapter folder to start from, such as an SFT run's; also the KL reference if beta > 0."},
    )
    embedder: str = field(default="all-MiniLM-L6-v2", metadata={"help": "Sentence embedder: name, hub id or folder."})
    recall_per_speaker: int = field(default=2, metadata={"help": "Memories recalled per speaker (the paper: 30)."})
    filler_memories: int = field(
        default=0,
        metadata={
            "help": "Memories of other training dialogues added to each bank of a supervised run, so that its prompts "
            "are as full as in the run that it is a warm start for."
        },
    )
    retention_questions: int = field(
        default=2, metadata={"help": "Questions about facts already in the bank that also score each tuple."}
    )
    credit: str = field(
        default="turn",
        metadata={
            "help": "The bank that a manager's completion is credited with: after its turn; after a whole session, "
            "whose operations it holds; branching at one turn, after the rest of the session has been played; or, by "
            "substitution in the log of the whole dialogue, at the dialogue's end, where all questions are asked.",
            "choices": ["turn", "session", "branch", "substitution"],
        },
    )
    answerable_only: bool = field(
        default=False,
        metadata={
            "help": "Train the Answer Agent only on questions that the recalled memories answer, and on unanswerable "
            "ones. Otherwise it learns to say 'unknown' wherever recall fails."
        },
    )
    filter_prompts: bool = field(
        default=False,
        metadata={
            "help": "Complete every training prompt once as a group before training, and train only on those whose "
            "main reward varies."
        },
    )
    reward_funcs: list[str] = field(
        default_factory=list, metadata={"help": "Rewards by name, or path/to/file.py:function."}
    )
    entry_cost: float = field(
        default=0.01,
        metadata={"help": "Cost per live entry, a separate reward beside a manager's outcome rewards; 0 disables it."},
    )
    answer_max_tokens: int = field(default=32, metadata={"help": "Longest completion of the frozen Answer Agent."})
    answer_style: str = field(
        default="ids",
        metadata={
            "help": "How an Answer Agent, trained or frozen, cites memories: by number, or by quoting them in longer "
            "completions, as in the paper.",
            "choices": list(ANSWER_INSTRUCTIONS),
        },
    )
    manager_max_tokens: int = field(
        default=48,
        metadata={
            "help": "Longest completion of the manager that rebuilds banks for an Answer Agent or for whole sessions; "
            "a manager trained turn by turn uses max_completion_length instead."
        },
    )
    length_margin: int | None = field(
        default=None,
        metadata={
            "help": "Number of tokens before max_completion_length over which the `length` reward falls from 0 to -1; "
            "default: a fifth of it, as in DAPO."
        },
    )
    judge_url: str = field(
        default="http://127.0.0.1:8000/v1",
        metadata={"help": "OpenAI-compatible server of the `llm_judge` reward; dialogue texts are sent there."},
    )
    judge_model: str | None = field(default=None, metadata={"help": "The judge's name on `judge_url`."})
    judge_key_variable: str = field(
        default="OPENAI_API_KEY", metadata={"help": "Environment variable that holds the key of `judge_url`, if any."}
    )
    judge_timeout: float = field(default=30.0, metadata={"help": "Time-out of one judge request, in seconds."})
    judge_concurrency: int = field(default=8, metadata={"help": "Number of concurrent judge requests."})
    accelerate: str | None = field(
        default=None,
        metadata={"help": "Accelerate configuration with which `make` launches the recipe; default: cpu.yaml."},
    )
    dry_run: bool = field(
        default=False, metadata={"help": "Print what the run will need (tokens, memory, time) and stop."}
    )

    def __post_init__(self) -> None:
        validate_fields(self, none_is_unset=False)
        if self.banks == "manager" and self.manager_adapter is None:
            raise ConfigurationError("banks is 'manager' but manager_adapter is not set; give an adapter folder")
        if self.banks == "observations" and self.dataset != "locomo":
            raise ConfigurationError(
                f"banks is 'observations' but dataset is '{self.dataset}'; only locomo has observations: use gold or "
                "manager"
            )
        if self.credit != "turn" and self.agent != "manager":
            raise ConfigurationError(f"credit is '{self.credit}' but agent is '{self.agent}'; only a manager has turns")
        if self.answerable_only and self.agent != "answer":
            raise ConfigurationError(
                "answerable_only is set but agent is 'manager', whose rows are turns; leave it out"
            )
        if self.credit == "substitution" and self.banks == "observations":
            raise ConfigurationError("credit is 'substitution' but observations have no log; use banks: manager")
        if self.validation == "played" and not (self.agent == "manager" and self.has_answer_agent):
            raise ConfigurationError("validation is 'played', which needs a manager and an Answer Agent; use 'rows'")
        if (self.answer_server is None) != (self.answer_server_model is None):
            raise ConfigurationError("answer_server and answer_server_model go together; give both or neither")
        check_address(self.judge_url)
        if self.answer_server is not None:
            check_address(self.answer_server)
        if self.answer_server is not None and self.answer_adapter is not None:
            raise ConfigurationError(
                "answer_adapter and answer_server are both set; choose one of them as the Answer Agent"
            )

        if self.has_answer_agent and self.answer_style == "quotes" and self.answer_max_tokens < ANSWER_TOKENS["quotes"]:
            raise ConfigurationError(
                f"answer_max_tokens: found {self.answer_max_tokens}, allowed with answer_style 'quotes': at least "
                f"{ANSWER_TOKENS['quotes']}, since the answer comes after the quoted memories"
            )

    @property
    def answer_folder(self) -> str | None:
        """The adapter folder of the frozen Answer Agent in this process, or None for the base model or a server."""
        return None if self.answer_adapter == BASE else self.answer_adapter

    @property
    def has_answer_agent(self) -> bool:
        """Whether there is a frozen Answer Agent, in this process or behind a server."""
        return self.answer_adapter is not None or self.answer_server is not None


@dataclass
class MemorySFTConfig(SFTConfig):
    """TRL's `SFTConfig` with every field checked."""

    def __post_init__(self) -> None:
        validate_fields(self)
        _check_run(self, "eval_loss")
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
