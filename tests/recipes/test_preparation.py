"""From a recipe's fields to what its agents are made with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from memory_r1.errors import ConfigurationError
from memory_r1.memory.retriever import Retriever
from memory_r1.training.arguments import MemoryArguments
from recipes.preparation import manager_tokens, refuse_past_window
from recipes.reinforcement import _answering


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        ({"agent": "manager"}, 64),  # the policy's own
        ({"agent": "manager", "credit": "branch"}, 64),
        ({"agent": "manager", "credit": "session"}, 20),  # there the policy's is a whole session's
        ({"agent": "answer"}, 20),  # there it is an answer's
    ],
)
def test_the_manager_that_rebuilds_banks_writes_as_long_as_the_recipe_says(
    fields: dict[str, Any], longest: int
) -> None:
    arguments = MemoryArguments(manager_max_tokens=20, **fields)
    assert manager_tokens(arguments, SimpleNamespace(max_completion_length=64)) == longest


@pytest.mark.parametrize("style", ["ids", "quotes"])
def test_the_frozen_answer_agent_answers_in_the_recipes_style(style: str) -> None:
    arguments = MemoryArguments(agent="manager", answer_adapter="folder", answer_style=style, answer_max_tokens=129)
    answering = _answering(arguments, None, None, Retriever(None, "bm25"))
    assert answering is not None
    assert (answering.agent.style, answering.agent.max_new_tokens) == (style, 129)


def test_a_prompt_that_leaves_no_room_for_its_completion_is_refused_before_training() -> None:
    model: Any = SimpleNamespace(window=20, prompt_tokens=len)
    prompts: Any = [[{}] * 3, [{}] * 12]
    refuse_past_window(prompts, 8, model)
    with pytest.raises(ConfigurationError, match="longest prompt has 12 tokens, with max_completion_length 9"):
        refuse_past_window(prompts, 9, model)
    refuse_past_window(prompts, 9, SimpleNamespace(window=None, prompt_tokens=len))  # type: ignore[arg-type]
