"""Find out how the engine of a run shards the model."""

from __future__ import annotations

import os
from typing import Any

from accelerate.utils import DistributedType

_WHOLE = (DistributedType.NO, DistributedType.MULTI_CPU)  # Accelerate ignores FSDP here, even if requested


def sharding_of(args: Any) -> int:
    """Return what is sharded: 3 everything (ZeRO-3, FSDP), 2 or 1 gradients and optimiser (ZeRO), 0 nothing.

    Only an `Accelerator` reports FSDP as its engine. Before there is one, the state just reports several GPUs, and the
    environment tells whether FSDP will use them.
    """
    kind = args.distributed_state.distributed_type
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if kind == DistributedType.FSDP or (asked and kind not in (*_WHOLE, DistributedType.DEEPSPEED)):
        return 3
    plugin = getattr(args, "deepspeed_plugin", None)
    return int(plugin.zero_stage) if plugin is not None else 0
