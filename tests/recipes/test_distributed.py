"""The same global batch gives the same adapter on one process and on two, under DDP and ZeRO on the CPU."""

from __future__ import annotations

import importlib.util
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
# ZeRO-3 refuses PPO, and the other cases repeat the same pass.
ZERO_CASES = [*(("zero2", case) for case in CASES if case != "sft"), ("zero3", "grpo")]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE)]


def two_processes(engine: str) -> tuple[str, ...]:
    """Return the guide's command for two processes on a CPU: torchrun with the engine's configuration, in float32."""
    return (
        *("-m", "accelerate.commands.launch", "--quiet", "--config_file", f"recipes/accelerate/{engine}.yaml"),
        *("--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0", "-m"),
    )


def learn(launch: tuple[str, ...], model: Path, folder: Path, *cases: str) -> None:
    """Run the cases in separate processes."""
    done = subprocess.run(
        [sys.executable, *launch, "tests.fixtures.distributed_training", str(model), str(folder), *cases],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Return the folder with the weights of both runs."""
    folder = tmp_path_factory.mktemp("distributed")
    for launch in (("-m",), two_processes("ddp")):
        learn(launch, tiny_model, folder)
    return folder


@pytest.fixture(scope="module")
def learnt_by_zero(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    """Return the folder with the weights of two processes of each ZeRO stage."""
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("needs the deepspeed extra: pip install -e '.[deepspeed]'")
    folders = {engine: tmp_path_factory.mktemp(engine) for engine, _ in ZERO_CASES}
    for engine, folder in folders.items():
        learn(two_processes(engine), tiny_model, folder, *(case for name, case in ZERO_CASES if name == engine))
    return folders


def start(tiny_model: Path) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in lora_parameters(with_lora(sharpen(load_base(tiny_model)))).items()}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(case: str, learnt: Path, tiny_model: Path) -> None:
    assert_same(learnt / f"{case}-0-of-1.safetensors", learnt / f"{case}-0-of-2.safetensors", tiny_model)


@pytest.mark.parametrize(("engine", "case"), ZERO_CASES)
def test_zero_learns_what_one_process_learns(
    engine: str, case: str, learnt_by_zero: dict[str, Path], learnt: Path, tiny_model: Path
) -> None:
    together = learnt_by_zero[engine] / f"{case}-0-of-2.safetensors"
    assert_same(learnt / f"{case}-0-of-1.safetensors", together, tiny_model)


def assert_same(expected: Path, found: Path, tiny_model: Path) -> None:
    alone, together = load_file(expected), load_file(found)
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
