"""Stand-ins for models: small, deterministic, and true to the real interface."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from memory_r1.errors import PromptTooLongError
from memory_r1.inference.language_model import Completion, Messages
from memory_r1.memory.embedder import text_key


class FakeEmbedder:
    """Hashed bag of words: texts that share words are similar, and equal texts have equal vectors.

    `calls` lists the texts of every `embed` call that it was not told to remember, for tests that count them.
    """

    dimension = 64

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.clears = 0
        self.remembered: dict[bytes, np.ndarray] = {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.calls.append([text for text in texts if text_key(text) not in self.remembered])
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()) or [""]:
                row[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % self.dimension] += 1
            row /= np.linalg.norm(row)
        return rows

    identity = "hashed words"

    def remember(self, vectors: Mapping[bytes, np.ndarray]) -> None:
        self.remembered.update(vectors)

    def clear(self) -> None:
        self.clears += 1


class FakeWeaver:
    """Three memory tokens per text, each its hashed words and the token's number; `texts` lists all it compressed."""

    vectors = 3
    longest = None
    identity = "hashed words"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def compress(self, texts: Sequence[str]) -> list[tuple[bytes, ...]]:
        self.texts += texts
        rows = FakeEmbedder().embed(texts)
        return [tuple((row + number).tobytes() for number in range(self.vectors)) for row in rows]


class ScriptedLanguageModel:
    """Completes each prompt with `script(prompt, adapter)`; a token is a word.

    `batches` lists the prompts (their last message) of every call. With `fail_after`, the call that would exceed this
    number of prompts raises, like a kill. With `window`, a prompt that does not fit together with its longest
    completion is refused, as by `LocalLanguageModel`.
    """

    def __init__(
        self,
        script: Callable[[Messages, str | None], str] | None = None,
        fail_after: int | None = None,
        window: int | None = None,
    ) -> None:
        self.script = script or keeping_script
        self.fail_after = fail_after
        self.window = window
        self.batches: list[list[str]] = []

    @property
    def prompts(self) -> list[str]:
        return [prompt for batch in self.batches for prompt in batch]

    def generate(
        self,
        prompts: Sequence[Messages],
        *,
        max_new_tokens: int,
        adapter: str | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        schemas: Any = None,
    ) -> list[Completion]:
        if self.fail_after is not None and len(self.prompts) + len(prompts) > self.fail_after:
            raise InterruptedError("the scripted model was told to stop here")
        for prompt in prompts:
            if self.window is not None and self.prompt_tokens(prompt) + max_new_tokens > self.window:
                raise PromptTooLongError(f"a prompt of {self.prompt_tokens(prompt)} words reached the model")
        self.batches.append([prompt[-1]["content"] for prompt in prompts])
        completions = []
        for prompt in prompts:
            text = self.script(prompt, adapter)
            completions.append(Completion(text, self.prompt_tokens(prompt), self.count_tokens(text)))
        return completions

    def prompt_tokens(self, prompt: Messages) -> int:
        return sum(self.count_tokens(message["content"]) for message in prompt)

    def count_tokens(self, text: str) -> int:
        return len(text.split())


def keeping_script(prompt: Messages, adapter: str | None) -> str:
    """Play both agents over turns such as "lives in Rome", which become memories such as "Ann lives in Rome".

    The manager: "hm" is a NOOP, "noise" does not parse, "ghost" names an id that was not shown, "never mind" deletes
    the first memory shown; a fact updates a memory with the same first two words, and is added otherwise. The Answer
    Agent relies on the first memory shown and repeats it. A writer's reply is `written_reply`.
    """
    if reply := written_reply(prompt):
        return reply
    shown = dict(re.findall(r"^(\d+)\. (.*?)(?: \[[^]]*\])?$", prompt[-1]["content"], re.MULTILINE))
    turn = re.search(r"^Last turn: (\w+): (.*)$", prompt[-1]["content"], re.MULTILINE)
    if turn is None:
        return f"Memories: 1\n**Answer:** {shown['1']}" if shown else "Memories: none\n**Answer:** unknown"
    speaker, said = turn.groups()
    fact = f"{speaker} {said}"
    same = [number for number, text in shown.items() if text.split()[:2] == fact.split()[:2]]
    if said == "noise":
        return "I shall remember that"
    if said == "hm":
        return '[{"op": "NOOP"}]'
    if said == "ghost":
        return '[{"op": "DELETE", "id": 99}]'
    if said == "never mind":
        return '[{"op": "DELETE", "id": 1}]'
    operation = {"op": "UPDATE", "id": int(same[0])} if same else {"op": "ADD"}
    if '"relation"' in prompt[0]["content"]:
        return json.dumps([{**operation, **_edge_of(fact)}])
    return json.dumps([{**operation, "text": fact}])


def _edge_of(fact: str) -> dict[str, str]:
    """Split a fact into subject, relation and object, at its first blank and before its last word."""
    subject, _, rest = fact.partition(" ")
    relation, _, thing = rest.rpartition(" ")
    return {"subject": subject, "relation": relation or "says", "object": thing or "nothing"}


def written_reply(prompt: Messages) -> str:
    """Reply to a writer's prompt with what was told: the last line as a fact, or all lines; empty for other prompts.

    "hm" holds no fact; a text with "noise" in its last line gets a reply that does not parse. The first line is an
    insight.
    """
    asked = re.search(
        r'\{"(facts|summary|portrait|memory|state|calls|operations|triples|numbers)": ', prompt[0]["content"]
    )
    if asked is None:
        return ""
    lines = prompt[-1]["content"].splitlines()
    if "noise" in lines[-1]:
        return "I shall remember that"
    speaker, _, said = lines[-1].partition(": ")
    if asked[1] == "calls" and speaker == "Question":
        return json.dumps({"calls": [{"function": "conversation_search", "query": said[:300] or "?"}]})
    if asked[1] == "calls":
        return json.dumps({"calls": [{"function": "core_memory_append", "block": speaker, "text": said[:300]}]})
    if asked[1] == "operations":
        return json.dumps({"operations": [{"operation": "ADD", "text": lines[0][:300]}]})
    if asked[1] == "numbers":
        return '{"numbers": ["1", "2"]}'
    if asked[1] == "triples":
        relation, _, thing = said.partition(" ")
        told = {"subject": speaker, "relation": relation, "object": thing[:120], "time": ""}
        return json.dumps({"triples": [told] if thing else []})
    value = ([] if said == "hm" else [f"{speaker} {said}"]) if asked[1] == "facts" else " ".join(lines)
    return json.dumps({asked[1]: value})


class KeepNewest:
    """A slot policy that adds every turn in the first empty slot or, if there is none, in place of the oldest."""

    def __init__(self, slots: int = 6) -> None:
        self.slots = slots
        self.seen: list[dict[str, np.ndarray]] = []

    def act(self, observation: dict[str, np.ndarray]) -> int:
        self.seen.append(observation)
        ages = observation["ages"]
        return int(1 + len(ages) + (np.argmin(ages) if 0 in ages else np.argmax(ages)))
