"""Batched generation over one base model with adapters chosen by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from memory_r1.errors import ConfigurationError, ModelError, PromptTooLongError
from memory_r1.inference.adapters import active_adapter, attach_adapter
from memory_r1.inference.language_model import room_for
from memory_r1.inference.local_model import LocalLanguageModel
from tests.tiny import load_base, load_tokenizer, lora_parameters, messages, sharpen, with_lora, write_adapter

# Of different lengths, not sorted by length.
PROMPTS = messages(
    [
        "Ann: I moved to Lisbon.",
        "Where?",
        "Ben: I sold my bicycle and Ann moved to Lisbon in May, so what did Ben sell and where does Ann live now?",
        "Forget it, Ben.",
        "question answer: Where does Ann live now?",
    ]
)


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scale `tiny_model`'s weights, so that its text depends on the prompt."""
    folder = tmp_path_factory.mktemp("sharp") / "tiny-llama"
    sharpen(load_base(tiny_model)).save_pretrained(folder)
    load_tokenizer(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(base, folder / name, seed, scale=0.3) for name, seed in (("one", 1), ("two", 2))}


@pytest.fixture
def loaded(base: Path, adapters: dict[str, Path]) -> LocalLanguageModel:
    return LocalLanguageModel.load(str(base), adapters, device="cpu")


def texts(model: LocalLanguageModel, **options: Any) -> list[str]:
    return [completion.text for completion in model.generate(PROMPTS, max_new_tokens=8, **options)]


def trainable(model: Any) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def test_a_batch_says_what_one_prompt_at_a_time_says_in_the_order_asked(base: Path) -> None:
    model, tokenizer = load_base(base), load_tokenizer(base)
    one_by_one = [LocalLanguageModel(model, tokenizer).generate([p], max_new_tokens=8)[0] for p in PROMPTS]
    assert len({completion.text for completion in one_by_one}) > 2  # else any order would pass
    for batch_size in (2, 5):
        batched = LocalLanguageModel(model, tokenizer, batch_size=batch_size).generate(PROMPTS, max_new_tokens=8)
        assert batched == one_by_one


def test_tokens_are_counted_without_padding(base: Path) -> None:
    model = LocalLanguageModel(load_base(base), load_tokenizer(base))
    completions = model.generate(PROMPTS, max_new_tokens=3)
    # A ChatML prompt is "<|im_start|>user\n" + text + "<|im_end|>\n<|im_start|>assistant\n".
    rendered = ["<|im_start|>user\n" + p[0]["content"] + "<|im_end|>\n<|im_start|>assistant\n" for p in PROMPTS]
    assert [completion.prompt_tokens for completion in completions] == [model.count_tokens(text) for text in rendered]
    assert {completion.completion_tokens for completion in completions} <= {0, 1, 2, 3}
    assert model.generate([], max_new_tokens=3) == []


def test_a_prompt_longer_than_the_window_never_reaches_the_model(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalLanguageModel(load_base(base), load_tokenizer(base))
    assert model.window == 2048
    model.model.config.max_position_embeddings = 40
    lengths = [model.prompt_tokens(prompt) for prompt in PROMPTS]
    assert room_for(model, PROMPTS[1], 8) == 40 - 8 - lengths[1]
    monkeypatch.setattr(model, "generate_ids", lambda *_, **__: pytest.fail("the model was asked"))
    with pytest.raises(PromptTooLongError, match=rf"of {max(lengths)} tokens with .* up to 8 exceeds .* window of 40"):
        model.generate(PROMPTS, max_new_tokens=8)


def test_a_completion_ends_with_the_first_end_of_sequence_token(base: Path) -> None:
    model, tokenizer = load_base(base), load_tokenizer(base)
    prompt = tokenizer.apply_chat_template(
        PROMPTS[0], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    ids = output[0, prompt["input_ids"].size(1) :].tolist()
    stop = next(token for token in ids if token != ids[0])
    model.generation_config.eos_token_id = [stop, tokenizer.pad_token_id]
    (completion, _) = LocalLanguageModel(model, tokenizer).generate(PROMPTS[:2], max_new_tokens=8)
    end = ids.index(stop) + 1
    assert completion.completion_tokens == end < 8
    assert completion.text == tokenizer.decode(ids[:end]).strip()


def test_every_adapter_and_the_base_say_something_else(loaded: LocalLanguageModel, base: Path) -> None:
    plain = LocalLanguageModel(load_base(base), load_tokenizer(base))
    one, two, none = texts(loaded, adapter="one"), texts(loaded, adapter="two"), texts(loaded, adapter=None)
    assert len({tuple(one), tuple(two), tuple(none)}) == 3
    assert none == texts(plain)
    # Each repeats itself, whatever ran in between.
    assert (texts(loaded, adapter="one"), texts(loaded, adapter="two")) == (one, two)


def test_an_adapter_attached_alone_says_what_it_says_among_others(
    loaded: LocalLanguageModel, base: Path, adapters: dict[str, Path]
) -> None:
    alone = LocalLanguageModel.load(str(base), {"any name": adapters["two"]}, device="cpu")
    assert texts(alone, adapter="any name") == texts(loaded, adapter="two")


@pytest.mark.parametrize("adapter", ["default", "frozen", None])
@pytest.mark.parametrize("training", [True, False])
def test_generation_leaves_a_policy_in_training_as_it_was(
    base: Path, adapters: dict[str, Path], adapter: str | None, training: bool
) -> None:
    policy = with_lora(load_base(base), seed=3)
    attach_adapter(policy, "frozen", adapters["one"])
    policy.train(training)
    before = trainable(policy)
    assert any(before.values())
    modes = []
    policy.get_base_model().register_forward_pre_hook(lambda module, _inputs: modes.append(module.training))
    LocalLanguageModel(policy, load_tokenizer(base)).generate(PROMPTS, max_new_tokens=2, adapter=adapter)
    assert set(modes) == {False}
    assert trainable(policy) == before
    assert policy.training is training
    assert policy.active_adapter == "default"


@pytest.mark.parametrize("adapter", ["one", "two", None])
def test_generation_makes_no_frozen_adapter_trainable(loaded: LocalLanguageModel, adapter: str | None) -> None:
    assert not any(trainable(loaded.model).values())
    texts(loaded, adapter=adapter)
    assert not any(trainable(loaded.model).values())


def test_a_failure_inside_leaves_mode_adapter_and_gradients_as_they_were(base: Path, adapters: dict[str, Path]) -> None:
    policy = with_lora(load_base(base), seed=3)
    attach_adapter(policy, "frozen", adapters["one"])
    policy.train()
    before = trainable(policy)
    with pytest.raises(RuntimeError, match="inside"), active_adapter(policy, "frozen"):
        assert policy.active_adapter == "frozen"
        raise RuntimeError("inside")
    with pytest.raises(ConfigurationError):
        LocalLanguageModel(policy, load_tokenizer(base)).generate(PROMPTS, max_new_tokens=2, adapter="missing")
    assert (policy.training, policy.active_adapter, trainable(policy)) == (True, "default", before)


def test_gradients_after_generation_reach_the_policy_alone(base: Path, adapters: dict[str, Path]) -> None:
    policy, tokenizer = with_lora(load_base(base), seed=3).train(), load_tokenizer(base)
    attach_adapter(policy, "frozen", adapters["one"])
    LocalLanguageModel(policy, tokenizer).generate(PROMPTS, max_new_tokens=2, adapter="frozen")
    ids = torch.tensor([tokenizer("Ann lives in Lisbon")["input_ids"]])
    policy(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in lora_parameters(policy).values())
    assert all(parameter.grad is None for parameter in lora_parameters(policy, "frozen").values())


@pytest.mark.parametrize("name", ["three", "default"])
def test_an_unknown_adapter_is_named_with_those_there_are(loaded: LocalLanguageModel, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no adapter named '{name}' is loaded; loaded: one, two"):
        texts(loaded, adapter=name)


def test_a_model_without_adapters_knows_none(base: Path) -> None:
    plain = LocalLanguageModel.load(str(base), device="cpu")
    with pytest.raises(ConfigurationError, match="loaded: none"):
        texts(plain, adapter="one")


def test_sampling_follows_its_seed(loaded: LocalLanguageModel) -> None:
    drawn = [texts(loaded, adapter="one", temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert texts(loaded, adapter="one") == texts(loaded, adapter="one", seed=5)  # greedy: no seed matters


def test_a_folder_that_is_no_adapter_is_refused_before_anything_is_loaded(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        LocalLanguageModel.load(str(base), {"one": tmp_path / "missing"})


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_every_dtype_of_a_recipe_loads(base: Path, dtype: str, expected: torch.dtype) -> None:
    assert LocalLanguageModel.load(str(base), dtype=dtype, device="cpu").model.dtype == expected


def test_a_likelihood_is_the_mean_over_the_texts_own_tokens_and_does_not_depend_on_the_batch(
    loaded: LocalLanguageModel,
) -> None:
    head, said = "Memories: 2\nAnswer:", [" Lisbon in May", " Oslo", " Ann", " a bicycle", " Ben"]
    together = loaded.likelihood(PROMPTS, [head] * len(PROMPTS), said, adapter="one")
    for prompt, text, found in zip(PROMPTS, said, together, strict=True):
        before = [*loaded.tokenize(prompt), *loaded.tokenizer(head, add_special_tokens=False)["input_ids"]]
        whole = loaded.tokenizer(head + text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[*loaded.tokenize(prompt), *whole]])
        with torch.no_grad(), active_adapter(loaded.model, "one"):
            probabilities = loaded.model(ids).logits[0, :-1].softmax(-1)
        own = [probabilities[place - 1, ids[0, place]] for place in range(len(before), ids.shape[1])]
        assert found == pytest.approx(float(torch.stack(own).log().mean().exp()), rel=1e-4)
    assert together != loaded.likelihood(PROMPTS, [head] * len(PROMPTS), said)
