"""Inputs of a dry run: the sizes of the model and of a typical prompt."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from data.sources import Source
from memory_r1.agents.prompts import answer_prompt, manager_prompt, session_prompt
from memory_r1.drafting.drafts import DRAFT, window_lines, windows
from memory_r1.memory.forms import FLAT, FORMS, OperationForm
from memory_r1.models import resolve_model
from memory_r1.systems.memagent import MEMORY, section_lines
from memory_r1.systems.writer import prompt_for
from memory_r1.training.arguments import MemoryArguments
from memory_r1.training.session_credit import MAX_SESSION_MEMORIES
from memory_r1.types import MemoryEntry, Session, Turn


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes; `linear` counts the weights that 4-bit loading quantises."""

    parameters: int
    linear: int
    trainable: int
    layers: int
    hidden: int
    queries: int
    keys: int
    feed_forward: int
    vocabulary: int
    heads: int


def shape_of(model: str, lora_r: int, targets: list[str] | str) -> Shape:
    """Read the sizes from the configuration; the model is built without memory, on PyTorch's meta device."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(resolve_model(model))
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config)
        parameters = sum(value.numel() for value in empty.parameters())
        embedding = empty.get_input_embeddings().weight.numel()
        linear = sum(
            module.weight.numel()
            for name, module in empty.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"
        )
        policy = get_peft_model(empty, LoraConfig(r=lora_r, target_modules=targets, task_type="CAUSAL_LM"))
        trainable = sum(value.numel() for value in policy.parameters() if value.requires_grad)
    text = config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    key_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return Shape(
        parameters=parameters,
        linear=linear,
        trainable=trainable,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        queries=text.num_attention_heads * size,
        keys=key_heads * size,
        feed_forward=getattr(text, "intermediate_size", 4 * text.hidden_size),
        vocabulary=embedding // text.hidden_size,
        heads=text.num_attention_heads,
    )


def prompt_tokens(arguments: MemoryArguments, model: str, source: Source) -> int:
    """Return P, the tokens of the agent's prompt with full recall, measured on a training dialogue."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(model))
    messages = typical_prompt(
        source,
        arguments.agent,
        arguments.recall_per_speaker,
        arguments.credit,
        arguments.answer_style,
        FORMS[arguments.operations],
    )
    return len(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])


def typical_prompt(
    source: Source,
    agent: str,
    recall_per_speaker: int,
    credit: str = "turn",
    style: str = "ids",
    form: OperationForm = FLAT,
) -> list[dict[str, str]]:
    """Build the agent's prompt with as many memories as it may recall, each as long as a turn of the dialogue."""
    dialogue = source.dialogue
    turns = dialogue.turns()
    if agent == "writer":  # its longest prompts: a whole dialogue, and a question
        section = [MemoryEntry(0, turn.text, turn.speaker, turn.timestamp) for turn in turns]
        return prompt_for(MEMORY, section_lines(section, "", dialogue.questions[0].question))
    if agent == "drafter":
        return prompt_for(DRAFT, max(map(window_lines, windows(dialogue)), key=lambda lines: len("".join(lines))))
    if credit == "session":
        *earlier, last = dialogue.sessions
        return session_prompt(last.turns, _session_memories(earlier, last, recall_per_speaker))
    recalled: list[MemoryEntry] = []
    for speaker in dialogue.speakers:
        said = [turn for turn in turns if turn.speaker == speaker] or turns
        recalled += _memories([said[index % len(said)] for index in range(recall_per_speaker)], speaker)
    if agent == "manager":
        return manager_prompt(turns[-1], turns[-3:-1], recalled, form)
    question = dialogue.questions[0]
    return answer_prompt(question.question, recalled, asked_at=question.asked_at, style=style)[0]


def _session_memories(earlier: list[Session], last: Session, recall_per_speaker: int) -> list[MemoryEntry]:
    """Return the most that the last session's turns can recall together: distinct memories of earlier turns."""
    said: dict[str, list[Turn]] = {}
    for turn in (turn for session in earlier for turn in session.turns):
        said.setdefault(turn.speaker, []).append(turn)
    most = recall_per_speaker * len(last.turns)
    recalled = [entry for speaker, turns in said.items() for entry in _memories(turns[:most], speaker)]
    return recalled[:MAX_SESSION_MEMORIES]


def _memories(turns: list[Turn], speaker: str) -> list[MemoryEntry]:
    return [
        MemoryEntry(number, turn.text, speaker, turn.timestamp, (turn.turn_id,))
        for number, turn in enumerate(turns, start=1)
    ]
