"""The weaver compresses texts into vectors, and a model reads vectors as it reads the words they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from memory_r1.adapter_settings import QUERIES
from memory_r1.errors import ModelError, PromptTooLongError
from memory_r1.inference.adapters import active_adapter
from memory_r1.inference.language_model import LATENTS
from memory_r1.inference.latents import base_of, prompt_around
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.inference.weaver import ADAPTER, Weaver, WeaverHead
from tests.tiny import lora_parameters, randomise, sharpen, write_adapter

TEXTS = [
    "[Monday]\nAnn: I moved to Lisbon.",
    "\nBen: hm",
    "[8 May]\nBen: I sold my bicycle, and Ann lives in Lisbon now.",
]


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> LocalLanguageModel:
    adapters = {name: write_adapter(tiny_model, tmp_path / name, seed) for seed, name in enumerate((ADAPTER, "answer"))}
    loaded = LocalLanguageModel.load(str(tiny_model), adapters)
    sharpen(base_of(loaded.model))
    return loaded


def new_weaver(model: LocalLanguageModel, queries: int = 4) -> Weaver:
    head = WeaverHead(queries, 64)
    randomise({name: part for name, part in head.named_parameters() if name in ("looks", "states", "end")}, 3)
    return Weaver(model, head, "random")


def vectors_of(model: LocalLanguageModel, text: str) -> tuple[list[int], tuple[bytes, ...]]:
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    table = base_of(model.model).get_input_embeddings().weight.detach()
    return ids, tuple(table[token].numpy().tobytes() for token in ids)


def prompt(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Memories:\n1. {text}\nQuestion: Where does Ann live?"}]


def test_the_embeddings_of_words_are_read_as_the_words_themselves(model: LocalLanguageModel) -> None:
    remembered = ["Ann lives in Lisbon", "Ben sold his bicycle on 8 May 2023", ""]
    encoded = [vectors_of(model, text) for text in remembered]
    before, behind = prompt_around(model.tokenizer, prompt(LATENTS))
    with model.evaluating("answer"):
        expected = model.generate_ids([[*before, *ids, *behind] for ids, _ in encoded], max_new_tokens=8)
    found = model.generate_with_latents(
        [prompt(LATENTS)] * 3, [vectors for _, vectors in encoded], max_new_tokens=8, adapter="answer"
    )
    assert [completion.text for completion in found] == [
        model.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in expected
    ]
    assert len({completion.text for completion in found}) == 3
    assert found[0].prompt_tokens == len(before) + len(encoded[0][0]) + len(behind)


def test_only_the_first_mark_is_a_place_so_that_no_question_can_move_the_tokens(model: LocalLanguageModel) -> None:
    asked = [{"role": "user", "content": f"1. {LATENTS}\nQuestion: what is {LATENTS}?"}]
    before, behind = prompt_around(model.tokenizer, asked)
    assert model.tokenizer.decode(before).endswith("1. ")
    assert LATENTS in model.tokenizer.decode(behind)


def test_a_prompt_that_its_tokens_lengthen_past_the_window_is_refused(model: LocalLanguageModel) -> None:
    latents = vectors_of(model, "Ann")[1] * 2048
    with pytest.raises(PromptTooLongError, match="exceeds the model's window of 2048"):
        model.generate_with_latents([prompt(LATENTS)], [latents], max_new_tokens=8)


def test_texts_compressed_together_give_what_each_gives_alone(model: LocalLanguageModel) -> None:
    weaver = new_weaver(model)
    together = weaver.compress(TEXTS)
    assert [len(tokens) for tokens in together] == [5, 5, 5]
    for text, tokens in zip(TEXTS, together, strict=True):
        alone = weaver.compress([text])[0]
        for one, other in zip(alone, tokens, strict=True):
            torch.testing.assert_close(
                *(torch.frombuffer(bytearray(each), dtype=torch.float32) for each in (one, other))
            )
    assert len({token for text in together for token in text}) == 13  # all end alike


def test_an_untrained_weaver_keeps_the_most_surprising_words_in_their_order(model: LocalLanguageModel) -> None:
    """The surprise of each token by hand, from the base model's own probabilities."""
    text = "[8 May]\nBen: I sold my bicycle, and Ann lives in Lisbon now."
    head, own = text.split("\n")
    context, ids = (model.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (head + "\n", own))
    whole = torch.tensor([[*context, *ids]])
    with torch.no_grad(), active_adapter(model.model, None):
        chances = model.model(whole).logits[0].log_softmax(-1)
    surprise = [float("inf")] + [-float(chances[len(context) + place - 1, ids[place]]) for place in range(1, len(ids))]
    kept = sorted(sorted(range(len(ids)), key=lambda place: -surprise[place])[:4])
    table = base_of(model.model).get_input_embeddings().weight.detach()
    weaver = Weaver.untrained(model, 4, adapter=ADAPTER, seed=0)
    *woven, end = weaver.weave([text])[0].detach()
    nearest = (
        torch.nn.functional.normalize(torch.stack(woven), dim=-1) @ torch.nn.functional.normalize(table[ids], dim=-1).T
    )
    assert [ids[place] for place in nearest.argmax(-1)] == [ids[place] for place in kept]
    assert torch.equal(end, table[model.tokenizer("\n")["input_ids"][-1]])


def test_the_gradient_reaches_queries_and_adapter_and_nothing_frozen(model: LocalLanguageModel) -> None:
    weaver = new_weaver(model)
    for name, parameter in model.model.named_parameters():
        parameter.requires_grad_(f".{ADAPTER}." in name)
    weaver.weave(TEXTS).pow(2).sum().backward()
    assert all(part.grad is not None and part.grad.any() for part in weaver.head.parameters())
    assert any(part.grad is not None and part.grad.any() for part in lora_parameters(model.model, ADAPTER).values())
    for name, parameter in model.model.named_parameters():
        assert f".{ADAPTER}." in name or parameter.grad is None, name


@pytest.mark.parametrize("name", [None, "answer", ADAPTER])
def test_switching_adapters_trains_nothing_else(model: LocalLanguageModel, name: str | None) -> None:
    for key, parameter in model.model.named_parameters():
        parameter.requires_grad_(f".{ADAPTER}." in key)
    before = {key: parameter.requires_grad for key, parameter in model.model.named_parameters()}
    with active_adapter(model.model, name):
        assert {key: parameter.requires_grad for key, parameter in model.model.named_parameters()} == before
    assert {key: parameter.requires_grad for key, parameter in model.model.named_parameters()} == before


def test_a_long_text_is_cut_to_the_window(model: LocalLanguageModel) -> None:
    weaver = new_weaver(model)
    assert weaver.longest == 2044
    assert len(weaver.compress(["\n" + "Ann lives in Lisbon. " * 2000])[0]) == 5


def test_saved_and_loaded_a_weaver_gives_the_same_tokens(model: LocalLanguageModel, tmp_path: Path) -> None:
    weaver = new_weaver(model)
    weaver.save(tmp_path / ADAPTER)
    loaded = Weaver.load(model, tmp_path / ADAPTER)
    assert loaded.compress(TEXTS) == weaver.compress(TEXTS)
    randomise(dict(weaver.head.named_parameters()), 9)
    weaver.save(tmp_path / ADAPTER)
    assert Weaver.load(model, tmp_path / ADAPTER).identity != loaded.identity


def test_queries_that_are_missing_cut_short_or_of_another_model_are_refused(
    model: LocalLanguageModel, tmp_path: Path
) -> None:
    folder = tmp_path / ADAPTER
    with pytest.raises(ModelError, match=f"{QUERIES} is missing"):
        Weaver.load(model, folder)
    other: Any = WeaverHead(4, 32).state_dict()
    save_file(other, folder / QUERIES)
    with pytest.raises(ModelError, match=r"does not fit this base model.*make train-latent-tokens"):
        Weaver.load(model, folder)
    (folder / QUERIES).write_bytes((folder / QUERIES).read_bytes()[:-8])
    with pytest.raises(ModelError, match="truncated or damaged"):
        Weaver.load(model, folder)
