"""The examples in docs/examples run and print what their documents say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.tiny import embedder_folder

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def printed(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(embedder_folder())
    return capsys.readouterr().out.splitlines()


def test_the_rag_memory_recalls_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    asked, first, second = printed("rag_memory", capsys)
    assert asked == "What is your name?"
    assert first.endswith("My name is Alice and I love playing chess.")
    assert float(first.split()[0]) < float(second.split()[0])


def test_the_token_memory_finds_the_updated_token_and_refuses_another_dimension(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, refused = printed("token_memory", capsys)
    assert found.startswith("token 1: Alice lives in Oslo. (384 numbers")
    assert refused.startswith(
        "refused: the declared dimension of a token is 128, but the encoder's embeddings have 384"
    )
