"""The machine's measured peak and a model's operations, for a benchmark row's share of the peak.

Only products with the base's frozen weights count, as two operations per weight and token. Attention scores, adapters,
norms, sampling and the optimizer are left out, so a share is a lower bound.
"""

from __future__ import annotations

import time
from typing import Any

from recipes.bench.measuring import Settings, device

_CPU_SIZE, _GPU_SIZE = 1024, 8192  # rows of the square matrices: enough for full speed, within about a second
_REPEATS = 10


def measured_peak(settings: Settings) -> float:
    """Return the best of ten floating-point rates of a square matrix product in the run's dtype, per second."""
    import torch

    if settings.threads:
        torch.set_num_threads(settings.threads)
    place = device()
    size = _GPU_SIZE if place.type == "cuda" else _CPU_SIZE
    left, right = (torch.randn(size, size, device=place).to(getattr(torch, settings.dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS + 1):  # the first one warms up
        started = time.perf_counter()
        left @ right
        if place.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    if place.type == "cuda":
        del left, right
        torch.cuda.empty_cache()  # both sides need the card
    return 2 * size**3 / best


def flops_a_token(policy: Any) -> list[int]:
    """Return the operations per token of the layers and per token of the head."""
    embeddings = policy.get_input_embeddings().weight
    layers = sum(
        parameter.numel()
        for name, parameter in policy.get_base_model().base_model.named_parameters()
        if parameter.dim() == 2 and "lora_" not in name and parameter is not embeddings
    )
    return [2 * layers, 2 * policy.get_output_embeddings().weight.numel()]
