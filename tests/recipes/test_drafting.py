"""What a drafter learns: gold questions of each window, as a drafter reads and writes them."""

from __future__ import annotations

import json

import pytest

from data.everyday import load_everyday
from data.sources import Source
from data.synthetic.generator import generate_split
from memory_r1.drafting.drafts import DRAFT, Drafter
from memory_r1.errors import ConfigurationError
from memory_r1.inference.language_model import Messages
from memory_r1.systems.writer import Writer, read
from memory_r1.training.recipe_file import parse_recipe
from memory_r1.training.trainer_configs import MemoryGRPOConfig
from recipes.drafting import drafter_rows, gold_windows
from recipes.sizes import typical_prompt
from tests.fakes import ScriptedLanguageModel


@pytest.mark.parametrize("data", ["synthetic", "everyday"])
def test_a_drafter_that_learns_its_rows_drafts_the_questions_that_single_windows_answer(data: str) -> None:
    labelled = generate_split("train", 2, 0) if data == "synthetic" else load_everyday("train")[:2]
    sources = [Source(item.dialogue) for item in labelled]
    rows = drafter_rows(sources)
    gold = {json.dumps(row["prompt"]): row["completion"][0]["content"] for row in rows}
    assert all(read(reply, DRAFT.schema) for reply in gold.values())

    def reply(prompt: Messages, adapter: str | None) -> str:
        return gold[json.dumps(prompt)]

    drafted = Drafter(Writer(ScriptedLanguageModel(reply))).draft([source.dialogue for source in sources])
    for source, item in zip(sources, drafted, strict=True):
        known = {(asked.question, asked.answer, asked.evidence) for asked in source.dialogue.questions}
        assert item.unparsed == 0
        assert {(draft.question, draft.answer, draft.evidence) for draft in item.drafts} <= known
        assert len(item.drafts) >= len(known) / 3
        assert json.dumps(typical_prompt(source, "drafter", 2)) in gold


def test_no_question_without_evidence_is_learnt() -> None:
    (item,) = generate_split("train", 1, 0)
    gold = [question for _, questions in gold_windows(item.dialogue) for question in questions]
    assert any(asked.category == "unanswerable" for asked in item.dialogue.questions)
    assert gold and all(question["evidence"] for question in gold)


def test_a_drafter_learns_by_sft_alone(tmp_path) -> None:  # type: ignore[no-untyped-def]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("agent: drafter\nmodel_name_or_path: x\nuse_cpu: true\nbf16: false\n")
    with pytest.raises(ConfigurationError, match="agent is 'drafter', which learns from gold texts alone"):
        parse_recipe(MemoryGRPOConfig, ["--config", str(recipe)])
