"""An adapter's card says what a stranger needs: licence, base, data, settings, scores, limits and use."""

from __future__ import annotations

import re
from typing import Any

from memory_r1.training.runs import model_card

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def card(base: str = HUB_ID, agent: str = "answer", **recipe: Any) -> str:
    return model_card(
        {
            "agent": agent,
            "method": "grpo",
            "recipe": recipe,
            "settings": {"recall_per_speaker": 2, "embedder": "/home/ann/minilm", "credit": None},
            "loss": "dapo",
            "base_model": {"id": base, "weights_sha256": "abc"},
            "steps": 2,
            "seed": 0,
            "trainable_parameters": 1234,
            "wall_seconds": 1.5,
            "first_reward": 0.25,
            "last_reward": 0.5,
            "best_validation": None,
            "git_revision": "abc",
        }
    )


def test_the_card_of_a_run_has_what_a_stranger_needs() -> None:
    text = card(dataset="everyday")
    assert text.startswith(f"---\nlibrary_name: peft\nlicense: apache-2.0\nbase_model: {HUB_ID}\n")
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == ["Data", "Settings", "Scores", "Limits", "Use"]
    for said in (
        "`everyday` (Apache-2.0)",
        "`memory_r1.agents.prompts.answer_prompt`",
        "| `recall_per_speaker` | 2 |",
        "`make eval-everyday ANSWER=folder`",
        "AutoPeftModelForCausalLM.from_pretrained(folder)",
    ):
        assert said in text
    assert "credit" not in text


def test_no_path_and_no_licence_that_is_not_known_stands_in_it() -> None:
    text = card(dataset="/home/ann/own.jsonl")
    assert "license:" not in text and "`own.jsonl` (dialogues of the user" in text
    assert "/home/" not in text
    assert "license:" not in card(base="owner/other")
    assert "CC BY-NC 4.0" in card(dataset="locomo")
    assert "license: apache-2.0" in card(dataset="synthetic+scenes")
    assert "license:" not in card(dataset="synthetic+locomo") and "CC BY-NC 4.0" in card(dataset="synthetic+locomo")
    started = card(dataset="everyday", warm_start="/home/ann/locomo_sft")
    assert "license:" not in started and "what the run read that it started from" in started
    assert "agents.prompts" not in card(agent="writer")
