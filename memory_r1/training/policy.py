"""The model of a run: the base, the policy's adapter (named `default`) and a manager's frozen Answer Agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memory_r1.errors import ConfigurationError, TrainingError
from memory_r1.inference.adapters import attach_adapter
from memory_r1.models import check_adapter, load_base, resolve_model

POLICY = "default"  # TRL copies the adapter of this name as KL reference
FROZEN_ANSWER = "answer"


def load_policy(
    model: str,
    *,
    dtype: str,
    warm_start: str | None,
    answer_adapter: str | None = None,
    lora_r: int = 16,
    lora_alpha: int = 32,
    lora_target_modules: Sequence[str] | str = "all-linear",
    load_in_4bit: bool = False,
    autocast: bool = False,
    seed: int = 0,
) -> tuple[Any, Any, str]:
    """Load the policy as a `PeftModel`; return it with its tokenizer and the folder or hub id of the base.

    LoRA dropout is always 0: completions are sampled in training mode, and dropout would make the sampling policy
    differ from the updated one. `load_in_4bit` keeps the base in 4-bit NormalFloat with double quantisation and
    computes in `dtype` (QLoRA, Dettmers et al. 2023, section 3). Set `autocast` if training runs under it (`bf16` or
    `fp16` in a recipe).

    Raises:
        ConfigurationError: `load_in_4bit` is set without a CUDA device or without bitsandbytes.
        ModelError: The base is missing, or an adapter is broken or was trained on another base model.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    quantised = _four_bit(dtype) if load_in_4bit else {}
    source = resolve_model(model)
    for folder in (warm_start, answer_adapter):
        if folder is not None:
            check_adapter(folder, source)
    base, tokenizer = load_base(source, dtype, **quantised)
    if warm_start is not None:
        policy = attach_adapter(base, POLICY, warm_start, trainable=True)
    else:
        torch.manual_seed(seed)
        targets = lora_target_modules if isinstance(lora_target_modules, str) else list(lora_target_modules)
        config = LoraConfig(
            r=lora_r, lora_alpha=lora_alpha, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM"
        )
        policy = get_peft_model(base, config)
    if answer_adapter is not None:
        attach_adapter(policy, FROZEN_ANSWER, answer_adapter)
    if autocast:
        _leave_casting_to_autocast(policy)
    return policy, tokenizer, source


def require_trainable(model: Any) -> int:
    """Return the number of trainable parameters.

    Raises:
        TrainingError: There are none. TRL would silently train such a model and save it unchanged.
    """
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if trainable == 0:
        raise TrainingError(
            "the model has no trainable parameter, so training would change nothing; load the adapter with "
            "is_trainable=True"
        )
    return trainable


def _four_bit(dtype: str) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that quantise the base onto this process's GPU.

    Raises:
        ConfigurationError: There is no CUDA device, bitsandbytes is missing, or `dtype` is "auto".
    """
    import torch
    from accelerate import PartialState
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not torch.cuda.is_available():
        raise ConfigurationError("load_in_4bit: found true, but there is no CUDA device; leave it out")
    if not is_bitsandbytes_available():
        raise ConfigurationError("load_in_4bit: bitsandbytes is missing; pip install -e '.[quantization]'")
    if dtype == "auto":
        raise ConfigurationError("load_in_4bit: dtype is 'auto'; name the type to compute in, such as bfloat16")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": config, "device_map": {"": PartialState().local_process_index}}


def _leave_casting_to_autocast(policy: Any) -> None:
    """Skip the cast of every LoRA input to float32, which autocast would undo: it takes a fifth of a step on a CPU."""
    from peft.tuners.lora import LoraLayer

    for module in policy.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
