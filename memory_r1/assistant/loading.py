"""Load the two agents of a `Memory`: adapters on a local model or behind a server, with their training's settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from memory_r1.adapter_settings import BASE, AgentSettings, agree
from memory_r1.agents.answer_agent import AnswerAgent
from memory_r1.agents.memory_manager import MemoryManager
from memory_r1.agents.prompts import ANSWER_TOKENS, EXAMPLES
from memory_r1.errors import ConfigurationError, ModelError
from memory_r1.inference.language_model import LanguageModel
from memory_r1.memory.embedder import SentenceEmbedder
from memory_r1.memory.retriever import Retriever
from memory_r1.models import resolve_embedder
from memory_r1.packaged_adapters import AGENTS, FOLDER, has_packaged_pair
from memory_r1.packaged_models import EMBEDDER, LANGUAGE_MODEL

SERVER_KEY = "MEMORY_R1_SERVER_KEY"
"""Environment variable with the key of a model server."""


@dataclass(frozen=True, slots=True)
class Agents:
    """Who writes and reads a memory; `recall_per_speaker` is the number of memories recalled for a question."""

    manager: MemoryManager
    answer: AnswerAgent
    recall_per_speaker: int = 30


def packaged_agents() -> Agents:
    """Load the pair of adapters that comes with the package.

    Raises:
        ModelError: This installation has none.
    """
    if not has_packaged_pair():
        raise ModelError(
            f"no trained adapters come with this installation ({FOLDER} is missing): name your own with "
            "Memory.from_adapters(manager=..., answer=...), where 'base' is the untrained model"
        )
    manager, answer = (FOLDER / agent for agent in AGENTS)
    return load_agents(manager, answer)


def load_agents(
    manager: str | Path,
    answer: str | Path,
    model: str = LANGUAGE_MODEL.name,
    *,
    dtype: str | None = None,
    embedder: str | None = None,
    device: str | None = None,
) -> Agents:
    """Load two adapters; what is not given here is as in their training (`training_summary.json`).

    Args:
        manager: The Memory Manager's adapter folder, or "base" for the untrained model, which then reads worked turns.
        answer: The Answer Agent's, likewise.
        model: The base model, by name, hub id or folder; or the address of an OpenAI-compatible server that serves the
            two adapters as its models "manager" and "answer".
        dtype: Precision of a local model.
        embedder: Sentence model for recall.
        device: Device of a local model; by default a GPU if there is one.

    Raises:
        ConfigurationError: The two adapters do not go together, or one of a server's is "base".
        ModelError: A model or adapter is missing or broken.
    """
    folders = {"manager": str(manager), "answer": str(answer)}
    adapters = {agent: folder for agent, folder in folders.items() if folder != BASE}
    trained = {agent: AgentSettings.read(adapters[agent]) if agent in adapters else AgentSettings() for agent in AGENTS}
    of_manager, of_answer = trained["manager"], trained["answer"]
    agree(of_manager, of_answer, {"dtype": dtype, "embedder": embedder})
    style = of_answer.answer_style or "ids"
    loaded = (
        _served(adapters, model)
        if model.startswith(("http://", "https://"))
        else _local(adapters, model, dtype or of_manager.dtype or of_answer.dtype or "float32", device)
    )
    embedder = embedder or of_manager.embedder or of_answer.embedder or EMBEDDER.name
    untrained = "manager" not in adapters
    return Agents(
        MemoryManager(
            loaded,
            Retriever(SentenceEmbedder(resolve_embedder(embedder))),
            adapter=None if untrained else "manager",
            recall_per_speaker=of_manager.recall_per_speaker or 2,
            max_new_tokens=of_manager.max_new_tokens or 48,
            examples=EXAMPLES if untrained else (),
            constrained=untrained,
        ),
        AnswerAgent(
            loaded,
            adapter="answer" if "answer" in adapters else None,
            max_new_tokens=of_answer.max_new_tokens or ANSWER_TOKENS[style],
            style=style,
        ),
        of_answer.recall_per_speaker or 30,
    )


def _local(adapters: dict[str, str], model: str, dtype: str, device: str | None) -> LanguageModel:
    from memory_r1.inference.local_model import LocalLanguageModel

    return LocalLanguageModel.load(model, adapters, dtype=dtype, device=device)


def _served(adapters: dict[str, str], address: str) -> LanguageModel:
    if len(adapters) < len(AGENTS):
        raise ConfigurationError(
            f"model is the server {address}: give both adapter folders, which it serves as 'manager' and 'answer'"
        )
    from transformers import AutoTokenizer

    from memory_r1.inference.endpoint import Endpoint
    from memory_r1.inference.server_model import ServerLanguageModel

    try:
        tokenizer = AutoTokenizer.from_pretrained(adapters["answer"], local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"no tokenizer can be loaded from {adapters['answer']}: give the folder of a trained adapter"
        ) from error
    return ServerLanguageModel(Endpoint(address, "answer", key_variable=SERVER_KEY), tokenizer)
