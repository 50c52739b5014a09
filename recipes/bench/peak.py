"""What the machine can do at most, by measurement, and what a model asks of it: a benchmark row's share of the peak.

Counted are the products with the base's frozen weights, two operations a weight and token. Attention scores, adapters,
norms, sampling and the optimizer are left out, so that a share is a lower bound.
"""

from __future__ import annotations

import time
from typing import Any

from recipes.bench.measuring import Settings, device

_CPU_SIZE, _GPU_SIZE = 1024, 8192  # rows of the square matrices: large enough for full speed, a second in all
_REPEATS = 10


def measured_peak(settings: Settings) -> float:
    """Floating-point operations a second in the product of two square matrices of the run's dtype: the best of ten."""
    import torch

    if settings.threads:
        torch.set_num_threads(settings.threads)
    place = device()
    size = _GPU_SIZE if place.type == "cuda" else _CPU_SIZE
    left, right = (torch.randn(size, size, device=place).to(getattr(torch, settings.dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS + 1):  # the first one, which warms up, is the slowest
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
    """Operations for each token that runs through the layers, and for each that the head projects."""
    embeddings = policy.get_input_embeddings().weight
    layers = sum(
        parameter.numel()
        for name, parameter in policy.get_base_model().base_model.named_parameters()
        if parameter.dim() == 2 and "lora_" not in name and parameter is not embeddings
    )
    return [2 * layers, 2 * policy.get_output_embeddings().weight.numel()]
