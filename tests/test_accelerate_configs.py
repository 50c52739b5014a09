"""The Accelerate configurations load, and launch what their names say."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

FOLDER = Path(__file__).parents[1] / "recipes" / "accelerate"


@pytest.mark.parametrize(
    ("name", "kind", "use_cpu", "precision"),
    [
        ("cpu", DistributedType.NO, True, "no"),
        ("single_gpu", DistributedType.NO, False, "bf16"),
        ("ddp", DistributedType.MULTI_GPU, False, "bf16"),
    ],
)
def test_configuration_launches_what_its_name_says(
    name: str, kind: DistributedType, use_cpu: bool, precision: str
) -> None:
    configuration = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert configuration.distributed_type == kind
    assert configuration.use_cpu is use_cpu
    assert configuration.mixed_precision == precision
    assert (configuration.num_processes > 1) == (kind == DistributedType.MULTI_GPU)


def test_every_configuration_is_covered() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"cpu", "single_gpu", "ddp"}
