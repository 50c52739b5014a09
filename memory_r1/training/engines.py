"""What the engine under a run splits over its processes."""

from __future__ import annotations

import os
from typing import Any

from accelerate.utils import DistributedType

_WHOLE = (DistributedType.NO, DistributedType.MULTI_CPU)  # where Accelerate leaves FSDP aside, asked for or not


def sharding_of(args: Any) -> int:
    """How much is split: 3 everything (ZeRO-3, FSDP), 2 or 1 gradients and optimiser (ZeRO), 0 nothing.

    Training arguments are asked before there is an `Accelerator`, which alone calls its engine FSDP: until then the
    state says that there are several GPUs, and the environment what is made of them.
    """
    kind = args.distributed_state.distributed_type
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if kind == DistributedType.FSDP or (asked and kind not in (*_WHOLE, DistributedType.DEEPSPEED)):
        return 3
    plugin = getattr(args, "deepspeed_plugin", None)
    return int(plugin.zero_stage) if plugin is not None else 0
