"""Implicit tokens: each turn becomes a few vectors in a bounded pool, which the Answer Agent reads without any text.

The weaver that makes the vectors is MemGen's, the pool MemoryLLM's. The log holds the turns; which vectors are left
follows from their number, and the vectors themselves from the turns, so both are rebuilt from the log. A file also
caches the vectors.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from memory_r1.agents.prompts import MEMORIES_MARKER, date_of
from memory_r1.errors import ConfigurationError
from memory_r1.inference.language_model import LATENTS
from memory_r1.memory.embedder import text_key
from memory_r1.memory.record import Record
from memory_r1.systems.banked import BankedSystem, Proposal
from memory_r1.systems.base import Capability, RecallRequest, TokenCounter, approximate_tokens, check_scope
from memory_r1.systems.baselines import add_every_turn
from memory_r1.systems.state import ScopeState
from memory_r1.types import MemoryEntry, Recall, Turn

BLOCK = f"{MEMORIES_MARKER}\n1. {LATENTS}"
"""The Answer Agent's memories: all tokens as one memory, so that it may rely on it by number."""
MOST_WOVEN = 20_000
"""Turns whose memory tokens stay in this process, 18 kB each with SmolLM2-135M; others are read or woven again."""


class TokenWeaver(Protocol):
    """Compresses texts into memory tokens; see `inference/weaver.py`."""

    @property
    def vectors(self) -> int:
        """Number of memory tokens per text."""
        ...

    @property
    def longest(self) -> int | None:
        """Most tokens of a text that it reads, the rest being cut; None if unbounded."""
        ...

    @property
    def identity(self) -> str:
        """Names the weights: equal identities give equal tokens."""
        ...

    def compress(self, texts: Sequence[str]) -> list[tuple[bytes, ...]]:
        """Return each text's memory tokens, as float32 bytes; a text's first line is context."""
        ...


class Pool:
    """Which memory tokens are left after a number of writes (MemoryLLM, section 3).

    Every write needs room for the tokens of one text. In a full pool that drops as many tokens at random, a 1/n of
    them, so that a token survives k further writes with probability (1 - 1/n)^k. MemoryLLM's pool is full of trained
    tokens from the start; this one starts empty, and drops nothing before it is full.

    Args:
        texts: Number of texts that the pool has room for (n).
        vectors: Tokens per text.
        seed: Seed of the drops; the same seed and number of writes leave the same tokens.
    """

    def __init__(self, texts: int, vectors: int, seed: str) -> None:
        self.texts = texts
        self.vectors = vectors
        self.seed = seed
        self.writes = 0
        self._tokens: list[tuple[int, int]] = []  # write, number among its tokens; oldest first

    def after(self, writes: int) -> dict[int, list[int]]:
        """Return the numbers of the tokens left of each write, oldest first, after `writes` of them."""
        if writes < self.writes:
            self.writes, self._tokens = 0, []
        while self.writes < writes:
            self.writes += 1
            excess = len(self._tokens) + self.vectors - self.texts * self.vectors
            if excess > 0:
                drawn = random.Random(f"{self.seed}/{self.writes}").sample(range(len(self._tokens)), excess)
                dropped = frozenset(drawn)
                self._tokens = [token for place, token in enumerate(self._tokens) if place not in dropped]
            self._tokens += [(self.writes, number) for number in range(self.vectors)]
        left: dict[int, list[int]] = {}
        for write, number in self._tokens:
            left.setdefault(write, []).append(number)
        return left


class LatentTokens(BankedSystem):
    """Every turn as memory tokens; a budget drops the oldest turns' first.

    Recalled items are the turns of which tokens are left, but the Answer Agent reads the tokens alone.
    """

    name = "latent-tokens"
    capabilities = frozenset({Capability.ENTRIES, Capability.MODEL_WRITES})
    cut_rule = "oldest first"

    def __init__(
        self,
        weaver: TokenWeaver,
        *,
        pool: int = 50,
        seed: int = 0,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        """Start empty.

        Args:
            weaver: Compresses the turns.
            pool: Number of turns that a scope's pool has room for.
            seed: Seed of what the pools drop.
            count_tokens: Counts the tokens that writing reads.
            states: Scopes that start from a given state.

        Raises:
            ConfigurationError: `pool` is below 1.
        """
        super().__init__(count_tokens=count_tokens, states=states)
        if pool < 1:
            raise ConfigurationError(f"pool is {pool}: give the number of turns whose memory tokens it holds, from 1")
        self._weaver = weaver
        self._pool = pool
        self._seed = seed
        self._pools: dict[str, Pool] = {}
        self._woven: dict[bytes, tuple[bytes, ...]] = {}  # memory tokens by `text_key`
        self._kept: dict[str, set[int]] = {}  # by scope: entries whose tokens the log caches

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        texts = [spoken(turn) for turn, _ in turns if turn.text.strip()]
        self._weave(texts)
        while len(self._woven) > MOST_WOVEN:
            del self._woven[next(iter(self._woven))]
        costs = iter([self._count_tokens(text) for text in texts])
        return [
            replace(proposal, record=self._cost(next(costs))) if proposal.operations else proposal
            for proposal in add_every_turn(turns)
        ]

    def _cost(self, tokens: int) -> Record:
        longest = self._weaver.longest
        read = tokens if longest is None else min(tokens, longest)
        return Record(prompt_tokens=read + self._weaver.vectors, model_calls=1, cut=int(read < tokens))

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        return [
            tuple(entry for entry in reversed(self.entries(request.scope)) if entry.entry_id in left)
            for request, left in ((request, self.tokens_left(request.scope)) for request in requests)
        ]

    def recall_many(self, requests: Sequence[RecallRequest]) -> list[Recall]:
        for request in requests:
            check_scope(request.scope)
        ranked = self._rank(requests)
        tokens = {scope: self._recollected(scope) for scope in dict.fromkeys(request.scope for request in requests)}
        return [
            self._recalled(request, entries, tokens[request.scope])
            for request, entries in zip(requests, ranked, strict=True)
        ]

    def tokens_left(self, scope: str) -> dict[int, list[int]]:
        """Return the numbers of the memory tokens left of each entry that ever was, oldest first."""
        if scope not in self._pools:
            self._pools[scope] = Pool(self._pool, self._weaver.vectors, f"{self._seed}/{scope}")
        return self._pools[scope].after(self._log.state(scope).bank.highest_id)

    def _recalled(
        self, request: RecallRequest, newest_first: Sequence[MemoryEntry], tokens_of: Mapping[int, tuple[bytes, ...]]
    ) -> Recall:
        left = self.tokens_left(request.scope)
        kept: list[MemoryEntry] = []
        tokens = 0
        for entry in newest_first:
            tokens += len(left[entry.entry_id])
            if request.budget_tokens is not None and tokens > request.budget_tokens:
                tokens -= len(left[entry.entry_id])
                break
            kept.append(entry)
        kept.reverse()
        return Recall(
            tuple(kept),
            text=BLOCK if kept else "",
            usage={"tokens": tokens, "cut": len(newest_first) - len(kept)},
            latents=tuple(tokens_of[entry.entry_id][number] for entry in kept for number in left[entry.entry_id]),
        )

    def _recollected(self, scope: str) -> dict[int, tuple[bytes, ...]]:
        """Return all memory tokens of the turns that have some left: from the log's cache, or woven and kept there."""
        left = self.tokens_left(scope)
        texts = {entry.entry_id: spoken(entry) for entry in self.entries(scope) if entry.entry_id in left}
        keys = {item: text_key(text) for item, text in texts.items()}
        if scope not in self._kept or not self._woven.keys() >= {*keys.values()}:
            held = self._log.vectors(scope, self._weaver.identity)
            cached = {item: key for item, key in keys.items() if key in held}
            self._woven.update((key, _split(held[key], self._weaver.vectors)) for key in cached.values())
            self._kept[scope] = {*cached}
        self._weave(texts.values())
        tokens = {item: self._woven[key] for item, key in keys.items()}
        if self._log.persistent and (fresh := keys.keys() - self._kept[scope]):
            vectors = [(item, keys[item], b"".join(tokens[item])) for item in fresh]
            self._log.keep_vectors(scope, self._weaver.identity, vectors)
            self._kept[scope] |= fresh
        return tokens

    def _weave(self, texts: Iterable[str]) -> None:
        fresh = [text for text in dict.fromkeys(texts) if text_key(text) not in self._woven]
        if fresh:
            self._woven.update(zip(map(text_key, fresh), self._weaver.compress(fresh), strict=True))

    def forget(self, scope: str, ids: Collection[int] | None = None) -> int:
        try:
            return super().forget(scope, ids)
        finally:  # even if the erasure is only half done
            self._woven.clear()
            self._kept.clear()

    def load(self, path: Path | str, *, create: bool = False) -> None:
        super().load(path, create=create)
        self._kept.clear()


def spoken(said: Turn | MemoryEntry) -> str:
    """Return what the weaver reads of a turn or of its entry: the day, and on a new line who said what."""
    day = date_of(said.timestamp) if said.timestamp else ""
    return f"{day}\n{said.speaker}: {said.text}"


def _split(joined: bytes, count: int) -> tuple[bytes, ...]:
    size = len(joined) // count
    return tuple(joined[start : start + size] for start in range(0, len(joined), size))
