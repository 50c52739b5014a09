"""A trained adapter has the layout that `vllm serve --lora-modules` reads (docs/engines.md)."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors.torch import load_file

from memory_r1.training.policy import load_policy
from memory_r1.training.runs import save_adapter
from tests.training.test_runs import summary

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes, vLLM 0.27
TENSOR = re.compile(r"base_model\.model\.(model\.layers\.\d+\.\w+\.\w+)\.lora_([AB])\.weight")


def test_the_adapter_of_a_run_is_plain_lora_of_a_rank_that_can_be_served(tiny_model: Path, tmp_path: Path) -> None:
    policy, tokenizer, _ = load_policy(str(tiny_model), dtype="float32", warm_start=None)
    save_adapter(policy, tokenizer, tmp_path, summary(tiny_model))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["bias"] == "none"
    assert config["r"] == 16 and config["r"] in RANKS and config["lora_alpha"] == 32
    assert not any(config[name] for name in ("modules_to_save", "use_dora", "use_rslora", "rank_pattern"))
    for name, value in load_file(tmp_path / "adapter_model.safetensors").items():
        match = TENSOR.fullmatch(name)
        assert match, name
        assert match[1].endswith(tuple(config["target_modules"]))
        assert value.shape[0 if match[2] == "A" else 1] == config["r"]
