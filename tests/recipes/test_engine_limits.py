"""Engines that split the model refuse at once what would make processes wait for each other for ever."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DistributedType

from memory_r1.errors import ConfigurationError
from memory_r1.training.engines import sharding_of
from recipes.preparation import check_engine


def config(kind: DistributedType = DistributedType.NO, stage: int | None = None, eval_strategy: str = "no") -> Any:
    plugin = None if stage is None else SimpleNamespace(zero_stage=stage)
    state = SimpleNamespace(distributed_type=kind)
    return SimpleNamespace(distributed_state=state, deepspeed_plugin=plugin, eval_strategy=eval_strategy)


def arguments(agent: str = "answer", answer_adapter: str | None = None) -> Any:
    return SimpleNamespace(agent=agent, answer_adapter=answer_adapter)


ZERO3 = {"kind": DistributedType.DEEPSPEED, "stage": 3}
FSDP = {"kind": DistributedType.FSDP}


def test_what_an_engine_splits_is_known() -> None:
    assert sharding_of(config()) == sharding_of(config(DistributedType.MULTI_GPU)) == 0
    assert sharding_of(config(DistributedType.DEEPSPEED, 2)) == 2
    assert sharding_of(config(**ZERO3)) == sharding_of(config(**FSDP)) == 3


def test_fsdp_is_known_before_accelerate_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding_of(config(DistributedType.MULTI_GPU)) == 3
    assert sharding_of(config(DistributedType.NO)) == 0  # where Accelerate starts plain processes all the same


@pytest.mark.parametrize("engine", [ZERO3, FSDP])
def test_split_models_neither_validate_nor_answer_in_one_process(engine: dict[str, Any]) -> None:
    check_engine(arguments(), config(**engine))
    check_engine(arguments("manager"), config(**engine))
    with pytest.raises(ConfigurationError, match="eval_strategy: ZeRO-3 and FSDP"):
        check_engine(arguments(), config(**engine, eval_strategy="steps"))
    with pytest.raises(ConfigurationError, match="set answer_server instead"):
        check_engine(arguments("manager", "outputs/answer"), config(**engine))


@pytest.mark.parametrize("engine", [{}, {"kind": DistributedType.DEEPSPEED, "stage": 2}])
def test_whole_models_may_do_both(engine: dict[str, Any]) -> None:
    check_engine(arguments("manager", "outputs/answer"), config(**engine, eval_strategy="steps"))
