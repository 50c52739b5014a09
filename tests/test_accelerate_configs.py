"""The Accelerate configurations load and match their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

FOLDER = Path(__file__).parents[1] / "recipes" / "accelerate"
CONFIGURATIONS = [
    ("cpu", DistributedType.NO, True, "no"),
    ("single_gpu", DistributedType.NO, False, "bf16"),
    ("ddp", DistributedType.MULTI_GPU, False, "bf16"),
    ("multi_node", DistributedType.MULTI_GPU, False, "bf16"),
    ("zero2", DistributedType.DEEPSPEED, False, "bf16"),
    ("zero3", DistributedType.DEEPSPEED, False, "bf16"),
    ("fsdp", DistributedType.FSDP, False, "bf16"),
]


@pytest.mark.parametrize(("name", "kind", "use_cpu", "precision"), CONFIGURATIONS)
def test_configuration_launches_what_its_name_says(
    name: str, kind: DistributedType, use_cpu: bool, precision: str
) -> None:
    configuration = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert configuration.distributed_type == kind
    assert configuration.use_cpu is use_cpu
    assert configuration.mixed_precision == precision
    assert (configuration.num_processes > 1) == (kind != DistributedType.NO)
    assert (configuration.num_machines > 1) == (name == "multi_node")


def test_engines_shard_what_their_names_say() -> None:
    zero2, zero3, fsdp = (load_config_from_file(str(FOLDER / f"{name}.yaml")) for name in ("zero2", "zero3", "fsdp"))
    assert (zero2.deepspeed_config["zero_stage"], zero3.deepspeed_config["zero_stage"]) == (2, 3)
    assert zero3.deepspeed_config["zero3_save_16bit_model"]
    assert (fsdp.fsdp_config["fsdp_version"], fsdp.fsdp_config["fsdp_reshard_after_forward"]) == (2, True)


def test_every_configuration_is_covered() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {name for name, *_ in CONFIGURATIONS}
