"""A recipe's own fields: what is trained on what. No layer below takes a config object.

A recipe is one flat YAML file over three dataclasses: `MemoryArguments`, TRL's trainer config with a few more fields
and TRL's `ModelConfig` (`trainer_configs.py`). TRL does not check values from YAML, so every field of all three is
checked against its type, choices and range before a model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from memory_r1.adapter_settings import BASE
from memory_r1.agents.prompts import ANSWER_INSTRUCTIONS, ANSWER_TOKENS
from memory_r1.errors import ConfigurationError
from memory_r1.inference.endpoint import check_address
from memory_r1.memory.forms import FLAT, FORMS
from memory_r1.training.field_checks import validate_fields


@dataclass
class MemoryArguments:
    """The agent, the data and the rewards of a run; fields of the trainer itself are TRL's."""

    agent: str = field(
        metadata={"help": "Which agent to train.", "choices": ["manager", "answer", "writer", "drafter"]}
    )
    dataset: str = field(
        default="synthetic",
        metadata={
            "help": "'synthetic', 'synthetic-aliases' (pets told of by name), 'scenes' (for SFT of the manager), "
            "'everyday' (without gold; 'everyday-labelled' has it), 'locomo', a JSONL file of your own dialogues, or "
            "several of these joined by +, in equal parts."
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
    infer_evidence: bool = field(
        default=False,
        metadata={
            "help": "For questions without marked evidence, take the turn after which the answer first stands in the "
            "bank, so that plain question-answer pairs train a manager turn by turn."
        },
    )
    operations: str = field(
        default=FLAT.name,
        metadata={
            "help": "How a manager, trained or behind the banks, writes operations: flat texts as in the paper, or "
            "edges of a graph, as memory-r1-graph plays them.",
            "choices": list(FORMS),
        },
    )
    answerable_only: bool = field(
        default=False,
        metadata={
            "help": "Train the Answer Agent only on questions that the recalled memories answer, and on those without "
            "an answer."
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
        if self.agent == "writer" and self.dataset != "synthetic":
            raise ConfigurationError(
                f"agent is 'writer' but dataset is '{self.dataset}'; only synthetic dialogues have gold texts"
            )
        if self.banks == "manager" and self.manager_adapter is None:
            raise ConfigurationError("banks is 'manager' but manager_adapter is not set; give an adapter folder")
        if self.banks == "observations" and self.dataset != "locomo":
            raise ConfigurationError(
                f"banks is 'observations' but dataset is '{self.dataset}'; only locomo has observations: use gold or "
                "manager"
            )
        if self.credit != "turn" and self.agent != "manager":
            raise ConfigurationError(f"credit is '{self.credit}' but agent is '{self.agent}'; only a manager has turns")
        if self.credit == "session" and self.operations != FLAT.name:
            raise ConfigurationError(
                f"credit is 'session' but operations is '{self.operations}'; a session's prompt knows flat ones alone"
            )
        if self.infer_evidence and self.credit == "branch":
            raise ConfigurationError("infer_evidence is set but credit is 'branch', which has no banks beforehand")
        if self.answerable_only and self.agent != "answer":
            raise ConfigurationError(
                f"answerable_only is set but agent is '{self.agent}', whose rows are no questions; leave it out"
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
