"""The same global batch gives the same adapter on one process and on two, under DDP on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.distributed_training import CASES
from tests.tiny import load_base, lora_parameters, sharpen, with_lora

ROOT = Path(__file__).parents[2]
PATIENCE = 240  # seconds; both runs together take about 60
# As the guide says for two processes without a GPU: torchrun through the DDP configuration, in float32.
TWO_PROCESSES = (
    *("-m", "accelerate.commands.launch", "--quiet", "--config_file", "recipes/accelerate/ddp.yaml"),
    *("--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0", "-m"),
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE)]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The folder in which both runs leave what they learnt."""
    folder = tmp_path_factory.mktemp("distributed")
    for launch in (("-m",), TWO_PROCESSES):
        done = subprocess.run(
            [sys.executable, *launch, "tests.fixtures.distributed_training", str(tiny_model), str(folder)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


def start(tiny_model: Path) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in lora_parameters(with_lora(sharpen(load_base(tiny_model)))).items()}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(case: str, learnt: Path, tiny_model: Path) -> None:
    alone, together = (load_file(learnt / f"{case}-0-of-{count}.safetensors") for count in (1, 2))
    before = start(tiny_model)
    assert alone.keys() == together.keys() >= before.keys()
    moved = torch.cat([(alone[name] - before.get(name, 0)).flatten() for name in alone])
    apart = torch.cat([(alone[name] - together[name]).flatten() for name in alone])
    assert moved.norm() > 0.1
    assert apart.norm() < 1e-3 * moved.norm()


@pytest.mark.parametrize("case", CASES)
def test_all_ranks_hold_the_same(case: str, learnt: Path) -> None:
    first, second = (load_file(learnt / f"{case}-{rank}-of-2.safetensors") for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
