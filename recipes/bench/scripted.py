"""Stand-ins for people and models in the benchmark of memory systems: turns, an embedder, a manager, a weaver.

They cost next to nothing, so that what is timed is the memory itself.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import cache, lru_cache

import numpy as np

from memory_r1.inference.language_model import Completion, Messages
from memory_r1.memory.embedder import SentenceEmbedder
from memory_r1.memory.forms import FLAT, OperationForm
from memory_r1.systems.triples import triples_by_rules
from memory_r1.types import Turn

SPEAKERS = ("Ann", "Ben")
SESSION_TURNS = 20
"""Turns of a session; there is one session a day."""
HEAPS_FACTOR, HEAPS_EXPONENT = 4.0, 0.65
"""After n turns they have named 4 n^0.65 people and places: 357 after 1,000, 7,113 after 100,000."""
DIMENSION = 384  # of all-MiniLM-L6-v2

_MET = ("met", "called", "visited", "invited", "helped", "photographed", "praised", "thanked", "missed", "painted")
_MOVES = ("moved to", "work at")
_MOVE_EVERY = 50  # turns; what such a turn states ends what an earlier one stated
_FILLER = 8  # words
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
_SPREAD = 48_271  # shares no factor with the number of words, so that every number gives another word
_FIRST_PERSON = {"i", "me", "my", "mine", "myself", "we", "us", "our", "ours"}
_BUCKETS = 16


def turns(seed: int = 0) -> Iterator[Turn]:
    """Yield turns without end: each states a fact about a person or place, and says something else.

    The rules find the fact ("I met Tabo Rilesu."). It names someone new as often as Heaps' law says, and otherwise
    someone in proportion to how often they were named before.
    """
    rng, words, start = random.Random(seed), vocabulary(), datetime(2020, 1, 1, 9)
    named: list[int] = []  # a number for every mention
    known = 0
    for number in itertools.count():
        if known < entities_after(number + 1):
            named.append(known)
            known += 1
        else:
            named.append(rng.choice(named))
        moves = number % _MOVE_EVERY == _MOVE_EVERY - 1
        fact = f"I {rng.choice(_MOVES if moves else _MET)} {name_of(named[-1])}."
        filler = " ".join(rng.choices(words, k=_FILLER)).capitalize()
        session, place = divmod(number, SESSION_TURNS)
        time = start + timedelta(days=session, minutes=place)
        yield Turn(f"t{number}", rng.choice(SPEAKERS), f"{fact} {filler}.", f"s{session}", time.isoformat())


def questions(count: int, after: int) -> list[str]:
    """Return questions about people and places from the first to the last that the first `after` turns name."""
    known = entities_after(after)
    return [f"What did Ann do with {name_of(place * known // count)}?" for place in range(count)]


def entities_after(count: int) -> int:
    """Return how many people and places the first `count` turns name, by Heaps' law."""
    return max(1, round(HEAPS_FACTOR * count**HEAPS_EXPONENT)) if count else 0


def name_of(number: int) -> str:
    """Return the name of a person or place: one of 300 first names, and a second name of its own."""
    return f"{_word(number % 300)} {_word(number + 300)}"


def _word(number: int) -> str:
    size = len(_SYLLABLES)
    code = number * _SPREAD % size**3
    return "".join(_SYLLABLES[code // size**place % size] for place in range(3)).capitalize()


@cache
def vocabulary() -> list[str]:
    """Return the words of the generator's phrases, without those by which one speaks of oneself."""
    from data.synthetic.phrase_files import TRAIN

    words = {word for lines in TRAIN.values() for line in lines for word in line.split() if word.isalpha()}
    return sorted(word for word in words if word.lower() not in _FIRST_PERSON)


class HashedEmbedder(SentenceEmbedder):
    """The sentence embedder with its cache, but hashed words for a model: texts that share words are similar."""

    dimension = DIMENSION
    identity = "hashed words"

    def __init__(self) -> None:
        super().__init__(self.identity)

    def _encode(self, texts: list[str]) -> np.ndarray:
        rows = np.zeros((len(texts), DIMENSION), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            places, signs = zip(*map(_hashed, re.findall(r"\w+", text.lower()) or [""]), strict=True)
            row[:] = np.bincount(np.concatenate(places), np.concatenate(signs), DIMENSION)
            row /= np.linalg.norm(row) or 1
        return rows


@lru_cache(maxsize=65_536)
def _hashed(word: str) -> tuple[np.ndarray, np.ndarray]:
    """Return where a word adds what to its text's vector."""
    codes = np.frombuffer(hashlib.sha256(word.encode()).digest(), dtype=np.uint16)[:_BUCKETS]
    return codes % DIMENSION, np.where(codes >= 2**15, np.float32(1), np.float32(-1))


class AddingModel:
    """A language model that replies to every turn with the ADD of what was said, as a text or as edges of a graph."""

    def __init__(self, form: OperationForm) -> None:
        self._form = form

    def generate(self, prompts: Sequence[Messages], **_: object) -> list[Completion]:
        """Complete each prompt of a manager."""
        said = [prompt[-1]["content"].rpartition("Last turn: ")[2] for prompt in prompts]
        return [Completion(json.dumps(self._added(line)), 0, 0) for line in said]

    def _added(self, line: str) -> list[dict[str, str]]:
        if self._form is FLAT:
            return [{"op": "ADD", "text": line}]
        speaker, _, text = line.partition(": ")
        return [{"op": "ADD", **triple.payload} for triple in triples_by_rules(Turn("", speaker, text, "", ""))]

    def count_tokens(self, text: str) -> int:
        """Return the number of words."""
        return len(text.split())


class HashedWeaver:
    """Eight memory tokens per text, as long as SmolLM2-135M's, from its hash."""

    vectors = 8
    longest = None
    identity = "hashed texts"

    def compress(self, texts: Sequence[str]) -> list[tuple[bytes, ...]]:
        """Return each text's memory tokens, as float32 bytes."""
        found = []
        for text in texts:
            rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
            rows = rng.standard_normal((self.vectors, 576), dtype=np.float32)
            found.append(tuple(row.tobytes() for row in rows))
        return found
