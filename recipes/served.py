"""An evaluation's agents behind an OpenAI-compatible server, such as `vllm serve` with LoRA modules as adapters."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, Self

from memory_r1.adapter_settings import BASE
from memory_r1.errors import ConfigurationError, EndpointError
from memory_r1.inference.endpoint import Endpoint
from memory_r1.inference.language_model import Completion, Messages
from memory_r1.inference.server_model import ServerLanguageModel
from memory_r1.packaged_adapters import AGENTS
from memory_r1.systems.base import approximate_tokens


def check_server(options: argparse.Namespace) -> None:
    """Refuse what only a local model can do, if the agents are behind a server.

    Raises:
        ConfigurationError: An option or the memory system needs a local model.
    """
    from memory_r1.systems.table import system_spec

    if options.endpoint is None:
        return
    for option in ("max_turn_tokens", "constrained", "dtype"):
        if getattr(options, option) not in (None, False):
            raise ConfigurationError(
                f"--{option.replace('_', '-')} needs a local model, but --endpoint is given: leave one of them out"
            )
    if system_spec(options.system).needs_weaver:
        raise ConfigurationError(
            f"memory system {options.system!r} needs a local model, but --endpoint is given: choose another system"
        )
    if options.writer not in (None, BASE) and not options.writer_endpoint:
        raise ConfigurationError(
            f"--writer names an adapter on this machine, but --endpoint is given: give --writer {BASE} for the "
            "server's model, --writer-endpoint for another one, or leave it out for rules"
        )


class ServedAgents(ServerLanguageModel):
    """The model behind `--endpoint`.

    Args:
        endpoint: The server; its model plays an agent that has no name on it.
        modules: The names of agents on the server.
    """

    def __init__(self, endpoint: Endpoint, modules: Mapping[str, str]) -> None:
        super().__init__(endpoint, None)
        self.modules = modules

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        """Return the model that the options of an evaluation name."""
        named = {agent: name for agent in AGENTS if (name := getattr(options, agent)) is not None}
        return cls(Endpoint(options.endpoint, options.model), named)

    def try_generate(
        self, prompts: Sequence[Messages], *, adapter: str | None = None, **options: Any
    ) -> list[Completion | EndpointError]:
        return super().try_generate(prompts, adapter=adapter and self.modules[adapter], **options)

    def count_tokens(self, text: str) -> int:
        """Estimate: a server's tokenizer is not here."""
        return approximate_tokens(text)
