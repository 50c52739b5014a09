from __future__ import annotations

import hashlib
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from memory_r1 import models, packaged_models
from memory_r1.entry import run_main
from memory_r1.errors import ModelError
from memory_r1.packaged_models import MANIFEST, EmbeddedModel, Report, prepare

WEIGHTS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, dtype=np.float32)}


class FakePackage:
    """Stands in for a model's package and counts how often it wrote the model."""

    def __init__(self) -> None:
        self.written = 0
        # Any installed package serves as the source: this writer does not read it.
        self.model = EmbeddedModel("tiny", "hub/tiny", "rich", "rich", self.write, steps=1)

    def write(self, source: Path, folder: Path, report: Report) -> None:
        report("writing")
        self.written += 1
        write_model(folder)


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(WEIGHTS, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def write_adapter(folder: Path, base: Path) -> Path:
    folder.mkdir()
    save_file({"lora": np.zeros(2, dtype=np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    base_model = {"id": "hub/tiny", "weights_sha256": models.weights_hash(str(base))}
    (folder / "training_summary.json").write_text(json.dumps({"base_model": base_model}))
    return folder


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_last_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_model_is_prepared_once_with_a_manifest(tmp_path: Path) -> None:
    package = FakePackage()
    folder = prepare(package.model, tmp_path, full_check=False)
    assert prepare(package.model, tmp_path, full_check=True) == folder == tmp_path / "models" / "tiny"
    assert package.written == 1
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["files"]["config.json"] == {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    assert not (tmp_path / "models" / "tiny.part").exists()


@pytest.mark.parametrize("full_check", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: cut_short(folder / "model.safetensors"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / MANIFEST).unlink(),
        lambda folder: cut_short(folder / MANIFEST) or cut_short(folder / MANIFEST),
        lambda folder: (folder / MANIFEST).write_text(
            json.dumps({"preparation_version": packaged_models.PREPARATION_VERSION, "files": {}})
        ),
    ],
    ids=["cut short", "file gone", "no manifest", "manifest cut short", "manifest without files"],
)
def test_damaged_folder_is_prepared_again(tmp_path: Path, damage, full_check: bool) -> None:
    package = FakePackage()
    folder = prepare(package.model, tmp_path, full_check=False)
    damage(folder)
    prepare(package.model, tmp_path, full_check=full_check)
    assert package.written == 2
    assert models.weights_hash(str(folder)) == models.weights_hash(str(write_model(tmp_path / "same")))


def test_a_models_hash_covers_its_template_too(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "one")
    before = models.model_hash(str(folder))
    assert before == models.model_hash(str(write_model(tmp_path / "two"))) != models.weights_hash(str(folder))
    (folder / "chat_template.jinja").write_text("another")
    assert models.model_hash(str(folder)) != before
    assert models.model_hash("no/such-model") is None


def test_changed_byte_is_found_by_the_full_check(tmp_path: Path) -> None:
    package = FakePackage()
    flip_last_byte(prepare(package.model, tmp_path, full_check=False) / "model.safetensors")
    prepare(package.model, tmp_path, full_check=False)
    assert package.written == 1
    prepare(package.model, tmp_path, full_check=True)
    assert package.written == 2


def test_folder_prepared_by_older_code_is_prepared_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = FakePackage()
    prepare(package.model, tmp_path, full_check=False)
    monkeypatch.setattr(packaged_models, "PREPARATION_VERSION", packaged_models.PREPARATION_VERSION + 1)
    prepare(package.model, tmp_path, full_check=False)
    assert package.written == 2


def test_interrupted_preparation_leaves_no_folder_and_is_made_good(tmp_path: Path) -> None:
    package = FakePackage()

    def stop(source: Path, folder: Path, report: Report) -> None:
        (folder / "leftover.bin").write_bytes(b"half")
        raise KeyboardInterrupt

    broken = EmbeddedModel("tiny", "hub/tiny", "rich", "rich", stop, steps=1)
    with pytest.raises(KeyboardInterrupt):
        prepare(broken, tmp_path, full_check=False)
    assert not (tmp_path / "models" / "tiny").exists()
    folder = prepare(package.model, tmp_path, full_check=False)
    assert not (folder / "leftover.bin").exists()


def test_two_at_once_prepare_once(tmp_path: Path) -> None:
    package = FakePackage()
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: prepare(package.model, tmp_path, full_check=False), range(4)))
    assert package.written == 1
    assert folders == {tmp_path / "models" / "tiny"}


def test_missing_package_and_unwritable_cache_are_said_in_one_line(tmp_path: Path) -> None:
    absent = EmbeddedModel("tiny", "hub/tiny", "no-such-package", "no_such_package", FakePackage().write, steps=1)
    with pytest.raises(ModelError, match="'no-such-package', which is not installed; run 'make install'"):
        prepare(absent, tmp_path, full_check=False)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match=r"cannot prepare tiny in .*MEMORY_R1_CACHE"):
        prepare(FakePackage().model, tmp_path / "file", full_check=False)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_R1_CACHE", "/elsewhere")
    assert packaged_models.cache_folder() == Path("/elsewhere")
    assert packaged_models.cache_folder("/given") == Path("/given")
    monkeypatch.delenv("MEMORY_R1_CACHE")
    assert packaged_models.cache_folder() == Path.home() / ".cache" / "memory_r1"


def test_command_prepares_both_and_fails_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = FakePackage(), FakePackage()
    monkeypatch.setattr(models, "LANGUAGE_MODEL", first.model)
    monkeypatch.setattr(models, "EMBEDDER", second.model)
    assert run_main(models.main, ["--cache", str(tmp_path)]) == 0
    assert f"tiny: {tmp_path / 'models' / 'tiny'}" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert run_main(models.main, ["--cache", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.startswith("error: cannot prepare tiny")


def test_embedded_names_resolve_to_the_prepared_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_R1_CACHE", str(tmp_path))
    package = FakePackage()
    monkeypatch.setattr(models, "LANGUAGE_MODEL", package.model)
    folder = str(tmp_path / "models" / "tiny")
    assert models.resolve_model("tiny") == models.resolve_model("hub/tiny") == folder
    assert models.weights_hash("hub/tiny") == models.weights_hash(folder)
    assert package.written == 1


def test_folder_and_hub_id_pass_through(tmp_path: Path) -> None:
    folder = str(write_model(tmp_path / "own"))
    assert models.resolve_model(folder) == models.resolve_embedder(folder) == folder
    assert models.resolve_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert models.resolve_embedder("intfloat/e5-small-v2") == "intfloat/e5-small-v2"


@pytest.mark.parametrize(
    ("removed", "added", "message"),
    [
        ("config.json", "", "no config.json"),
        ("config.json", "adapter_config.json", "an adapter, not a base model"),
        ("tokenizer.json", "", "no tokenizer"),
        ("model.safetensors", "", r"no weights in the folder \(model.safetensors\)"),
        ("model.safetensors", "pytorch_model.bin", "no weights"),
    ],
)
def test_incomplete_folder_is_refused(tmp_path: Path, removed: str, added: str, message: str) -> None:
    folder = write_model(tmp_path / "own")
    (folder / removed).unlink()
    if added:
        (folder / added).write_text("{}")
    with pytest.raises(ModelError, match=message):
        models.resolve_model(str(folder))


def test_missing_shard_and_cut_weights_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "own")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}))
    with pytest.raises(ModelError, match=r"model-2\.safetensors"):
        models.resolve_model(str(folder))
    index.unlink()
    cut_short(folder / "model.safetensors")
    with pytest.raises(ModelError, match="truncated or damaged"):
        models.resolve_embedder(str(folder))


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "a/b/c", "has space", ""])
def test_what_is_neither_folder_nor_hub_id_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="no such folder, and not a hub id"):
        models.resolve_model(name)


def test_weights_hash_covers_names_types_shapes_and_bytes(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "own")
    # By hand: for each tensor in the order of names, its [name, dtype, shape] as JSON, then its bytes.
    expected = hashlib.sha256(b'["a", "F32", [2, 3]]' + WEIGHTS["a"].tobytes())
    expected.update(b'["b", "F32", [4]]' + WEIGHTS["b"].tobytes())
    assert models.weights_hash(str(folder)) == expected.hexdigest()


def test_weights_hash_ignores_sharding_and_metadata(tmp_path: Path) -> None:
    whole, sharded = write_model(tmp_path / "whole"), tmp_path / "sharded"
    sharded.mkdir()
    save_file({"b": WEIGHTS["b"]}, sharded / "model-1.safetensors", metadata={"format": "pt"})
    save_file({"a": WEIGHTS["a"]}, sharded / "model-2.safetensors")
    assert models.weights_hash(str(whole)) == models.weights_hash(str(sharded))
    save_file({"a": WEIGHTS["a"].reshape(3, 2)}, sharded / "model-2.safetensors")
    assert models.weights_hash(str(whole)) != models.weights_hash(str(sharded))


def test_weights_hash_sees_weights_that_change_in_place(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "own")
    before = models.weights_hash(str(folder))
    flip_last_byte(folder / "model.safetensors")
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert models.weights_hash(str(folder)) != before


def test_weights_hash_of_what_has_no_weights_here(tmp_path: Path) -> None:
    assert models.weights_hash(str(tmp_path)) is None
    assert models.weights_hash("nobody/not-downloaded") is None
    assert models.weights_hash("/no/such/folder") is None


def test_adapter_fits_its_base_wherever_that_lies(tmp_path: Path) -> None:
    base, moved = write_model(tmp_path / "base"), write_model(tmp_path / "elsewhere")
    adapter = write_adapter(tmp_path / "adapter", base)
    models.check_adapter(adapter, str(base))
    models.check_adapter(str(adapter), str(moved))


def test_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    base, other = write_model(tmp_path / "base"), write_model(tmp_path / "tiny")
    flip_last_byte(other / "model.safetensors")
    adapter = write_adapter(tmp_path / "adapter", base)
    with pytest.raises(ModelError, match=r"was trained on 'hub/tiny', not on .*weights [0-9a-f]{12} against"):
        models.check_adapter(adapter, str(other))


def test_an_adapter_is_told_where_its_base_lies_now_and_nothing_else_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, moved = write_model(tmp_path / "base"), write_model(tmp_path / "elsewhere")
    adapter = write_adapter(tmp_path / "adapter", base)
    before = json.loads((adapter / "adapter_config.json").read_text())
    content = models.adapter_hash(adapter)
    assert models.main(["--repoint", str(adapter), str(moved)]) is None
    assert capsys.readouterr().out == f"{adapter}: its base model is {moved}\n"
    after = json.loads((adapter / "adapter_config.json").read_text())
    assert after == {**before, "base_model_name_or_path": str(moved)}
    assert models.adapter_hash(adapter) == content


def test_an_adapter_is_not_told_of_another_base(tmp_path: Path) -> None:
    base, other = write_model(tmp_path / "base"), write_model(tmp_path / "other")
    flip_last_byte(other / "model.safetensors")
    adapter = write_adapter(tmp_path / "adapter", base)
    before = (adapter / "adapter_config.json").read_bytes()
    with pytest.raises(ModelError, match="was trained on 'hub/tiny'"):
        models.repoint_adapter(adapter, str(other))
    assert (adapter / "adapter_config.json").read_bytes() == before


def test_adapters_differ_by_weights_and_by_configuration(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", base)
    first = models.adapter_hash(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 99}))
    second = models.adapter_hash(adapter)
    flip_last_byte(adapter / "adapter_model.safetensors")
    assert len({first, second, models.adapter_hash(adapter)}) == 3


def test_adapter_is_compared_by_name_where_the_base_cannot_be_hashed(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", write_model(tmp_path / "base"))
    models.check_adapter(adapter, "fork/tiny")
    with pytest.raises(ModelError, match=r"was trained on 'hub/tiny', not on 'hub/large' .*by name"):
        models.check_adapter(adapter, "hub/large")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("adapter_config.json", None, "adapter_config.json is missing"),
        ("adapter_config.json", "{", "adapter_config.json is not readable JSON"),
        ("adapter_config.json", "[]", "holds a JSON list"),
        ("adapter_config.json", "{}", "no 'peft_type'"),
        ("adapter_model.safetensors", None, "adapter_model.safetensors is missing"),
        ("adapter_model.safetensors", "", "is not a safetensors file|truncated"),
        ("adapter_model.safetensors", "no tensors, but more than eight bytes", "is not a safetensors file"),
        ("training_summary.json", "{}", "'base_model' is None"),
        ("training_summary.json", '{"base_model": {"id": 3}}', "must be an object with the strings"),
        ("training_summary.json", '{"base_model": {"id": "x", "weights_sha256": 3}}', "must be an object"),
    ],
)
def test_broken_adapter_is_refused(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    base = write_model(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", base)
    (adapter / file).unlink()
    if content is not None:
        (adapter / file).write_text(content)
    with pytest.raises(ModelError, match=message) as raised:
        models.check_adapter(adapter, str(base))
    assert "\n" not in str(raised.value)


def test_missing_and_cut_adapters_are_refused(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    with pytest.raises(ModelError, match="no such folder"):
        models.check_adapter(tmp_path / "nowhere", str(base))
    adapter = write_adapter(tmp_path / "adapter", base)
    cut_short(adapter / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="truncated or damaged"):
        models.check_adapter(adapter, str(base))


def test_adapter_without_a_summary_passes_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = write_model(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", base)
    (adapter / "training_summary.json").unlink()
    with caplog.at_level(logging.WARNING):
        models.check_adapter(adapter, str(base))
    assert "no training_summary.json" in caplog.text


def test_tiny_model_fixture_loads_and_ends_a_turn(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert models.resolve_model(str(tiny_model)) == str(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hé, 日本?"}], tokenize=False)
    assert chat == "<|im_start|>user\nHé, 日本?<|im_end|>\n"
    assert tokenizer.decode(tokenizer(chat)["input_ids"]) == chat
    assert model.config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)


@pytest.mark.slow
def test_embedded_language_model_talks_and_ends_its_turn() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models.resolve_model("SmolLM2-135M-Instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    # One token per digit, as in the original tokenizer, and one for the empty line before them.
    assert tokenizer.tokenize("\n\n2023") == ["ĊĊ", "2", "0", "2", "3"]
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id == 2
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(tokens) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.slow
def test_embedded_embedder_tells_near_from_far() -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(models.resolve_embedder("all-MiniLM-L6-v2"), device="cpu")
    cat, kitten, market = model.encode(["a cat", "a kitten", "the stock market"])
    assert cat.shape == (384,)
    assert np.linalg.norm(cat) == pytest.approx(1.0, abs=1e-5)
    assert cat @ kitten > 0.6 > 0.3 > cat @ market
