"""Completions that are held to the JSON of operations parse, whatever the model would rather say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memory_r1.errors import ConfigurationError
from memory_r1.inference.endpoint import Endpoint
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.inference.server_model import ServerLanguageModel
from memory_r1.memory.forms import FLAT, GRAPH, OperationForm, operations_schema
from memory_r1.memory.operations import RefusalReason, check_completion
from tests.tiny import load_base, load_tokenizer, messages, sharpen

PROMPTS = messages(["Ann moved.", "Ben is here, and Ann too.", "Ann moved.", "hm"])


def brief(schema: dict[str, Any]) -> dict[str, Any]:
    """The same with short texts, which a random model would not end by itself."""
    return json.loads(json.dumps(schema).replace('"minLength": 1', '"minLength": 1, "maxLength": 6')) | {"maxItems": 3}


@pytest.mark.parametrize(("temperature", "form"), [(0.0, FLAT), (1.0, FLAT), (1.0, GRAPH)])
def test_a_random_model_writes_nothing_but_operations(
    tiny_model: Path, temperature: float, form: OperationForm
) -> None:
    model = LocalLanguageModel(sharpen(load_base(tiny_model)), load_tokenizer(tiny_model), batch_size=4)
    shown = [0, 2, 0, 3]
    free = model.generate(PROMPTS, max_new_tokens=300, temperature=temperature, seed=0)
    assert all(check_completion(text.text, [7, 8, 9]).failure is not None for text in free)
    schemas = [brief(operations_schema(number, form)) for number in shown]
    held = model.generate(PROMPTS, max_new_tokens=300, temperature=temperature, seed=0, schemas=schemas)
    for completion, number in zip(held, shown, strict=True):
        assert completion.text.startswith('[{"op": "')
        assert completion.completion_tokens < 300
        operations = json.loads(completion.text)
        assert all(1 <= operation.get("id", 1) <= number for operation in operations if "id" in operation)
        checked = check_completion(completion.text, list(range(number)), form=form)
        assert checked.failure is None
        refusals = {item.refusal for item in checked.operations}
        assert refusals <= {None, RefusalReason.EMPTY_TEXT, RefusalReason.SECOND_OPERATION}
    if temperature == 0.0:
        assert held[0].text == held[2].text


def test_without_a_memory_there_is_nothing_to_change() -> None:
    def kinds(shown: int) -> list[str]:
        return [choice["properties"]["op"]["const"] for choice in operations_schema(shown)["items"]["anyOf"]]

    assert (kinds(0), kinds(1)) == (["ADD", "NOOP"], ["ADD", "UPDATE", "DELETE", "NOOP"])


def test_a_server_is_not_asked_for_it() -> None:
    served = ServerLanguageModel(Endpoint("http://127.0.0.1:1/v1", "m"), None)
    with pytest.raises(ConfigurationError, match="needs a local model"):
        served.generate(PROMPTS, max_new_tokens=4, schemas=[operations_schema(0)] * 4)
