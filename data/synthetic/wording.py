"""Turn planned events into turns with gold operations, and facts into questions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from data.synthetic.phrase_files import HELDOUT, JOINERS, OPENERS, PEOPLE, REPEATERS, TALK, TRAIN
from data.synthetic.plan import DATED, Event, Fact, Group
from memory_r1.types import Operation, OperationKind

_NOOP = Operation(OperationKind.NOOP)


@dataclass(frozen=True, slots=True)
class Phrase:
    """A spoken phrase (`turn`) and the memory written from it (`entry`)."""

    turn: str
    entry: str = ""


def phrasing_of(split: str) -> str:
    """Return the phrasing pool of a split; validation uses the training pool."""
    return "heldout" if split == "heldout" else "train"


def phrases(split: str) -> dict[str, dict[str, tuple[Phrase, ...]]]:
    """Return the phrases of a split by attribute and kind (see `phrase_files`)."""
    pool = HELDOUT if phrasing_of(split) == "heldout" else TRAIN
    parsed: dict[str, dict[str, tuple[Phrase, ...]]] = {}
    for attribute, block in pool.items():
        kinds: dict[str, list[Phrase]] = {}
        for line in block:
            kind, _, text = line.partition(": ")
            turn, _, entry = text.partition(" => ")
            kinds.setdefault(kind, []).append(Phrase(turn, entry))
        parsed[attribute] = {kind: tuple(items) for kind, items in kinds.items()}
    return parsed


def talk(split: str, standalone: bool = True) -> tuple[str, ...]:
    """Return small talk, `{o}` being the person spoken to; greetings and replies only if it stands alone."""
    lines = TALK[phrasing_of(split)]
    return tuple(line.removeprefix("* ") for line in lines if standalone or not line.startswith("* "))


def with_article(value: str) -> str:
    """Put "a" or "an" before the value."""
    lowered = value.lower()
    vowel = lowered[0] in "aeiou" and not lowered.startswith(("uk", "uni", "eu", "one"))
    return f"{'an' if vowel else 'a'} {value}"


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


class Writer:
    """Write one dialogue, with the entry ids that a MemoryBank would assign (1, 2, 3, ... in order of ADD)."""

    def __init__(self, split: str, speakers: tuple[str, str], rng: random.Random) -> None:
        self._pool, self._speakers, self._rng = phrasing_of(split), speakers, rng
        self._phrases, self._talk, self._asides = phrases(split), talk(split), talk(split, standalone=False)
        self._used: set[str] = set()
        self._next_id = 1

    def turn(self, group: Group, turn_id: str, speaker: str) -> tuple[str, tuple[Operation, ...]]:
        """Return the text and the gold operations of one turn."""
        if not group:
            return self._chat(speaker, self._talk), (_NOOP,)
        rng = self._rng
        said = [self._say(event, turn_id) for event in group]
        sentences = [sentence for sentence, _, _ in said]
        leads = [lead for _, lead, _ in said]
        if len(group) == 1 and rng.random() < 0.35:
            position = rng.randrange(2)
            sentences.insert(position, self._chat(speaker, self._asides))
            leads.insert(position, "")
        elif not leads[0] and rng.random() < 0.4:
            leads[0] = rng.choice(OPENERS[self._pool])
        for i in range(1, len(sentences)):
            leads[i] = leads[i] or rng.choice(JOINERS[self._pool])
        text = " ".join(_led(lead, sentence) for lead, sentence in zip(leads, sentences, strict=True))
        return text, tuple(operation for _, _, operation in said)

    def question(self, fact: Fact, who: str, kind: str = "q") -> str:
        """Write a question about this attribute of `who`."""
        text = self._choose(self._phrases[fact.attribute][kind]).turn
        return _upper_first(text.format(who=who, v=fact.value, x=fact.pet_name))

    def person_with(self, fact: Fact) -> str:
        """Name a speaker by one of their facts, in a noun phrase."""
        clause = self._choose(self._phrases[fact.attribute]["a"]).turn
        clause = clause.format(v=fact.current, av=with_article(fact.current), x=fact.pet_name)
        return f"{self._rng.choice(PEOPLE[self._pool])} {clause}"

    def pet_of(self, pet: Fact) -> str:
        """Name a pet by its animal and its owner."""
        return self._choose(self._phrases["den"]["p"]).turn.format(v=pet.value, who=pet.speaker)

    def owner_of(self, pet: Fact) -> str:
        """Name a speaker by the name of their pet."""
        return self._choose(self._phrases["den"]["o"]).turn.format(x=pet.pet_name)

    def _choose(self, options: Sequence[Phrase]) -> Phrase:
        """Choose a phrase, if possible one that is new to this dialogue."""
        fresh = [phrase for phrase in options if phrase.turn not in self._used] or list(options)
        chosen = self._rng.choice(fresh)
        self._used.add(chosen.turn)
        return chosen

    def _chat(self, speaker: str, lines: Sequence[str]) -> str:
        other = self._speakers[speaker == self._speakers[0]]
        return self._choose([Phrase(line) for line in lines]).turn.format(o=other)

    def _say(self, event: Event, turn_id: str) -> tuple[str, str, Operation]:
        """Return the sentence, its required lead (empty: any) and the gold operation; update the fact."""
        fact, kind = event.fact, event.kind
        moved = kind == "c" and fact.attribute in DATED
        phrase = self._choose(self._phrases[fact.attribute]["s" if kind == "p" else kind])
        value = fact.new if kind == "c" and not moved else fact.value
        date = fact.new if moved else fact.date
        words = {"n": fact.speaker, "v": value, "av": with_article(value), "d": date, "x": fact.pet_name}
        words |= {"old": fact.value, "aold": with_article(fact.value), "m": fact.text}
        sentence = phrase.turn.format(**words)
        if kind == "p":
            return sentence, self._rng.choice(REPEATERS[self._pool]), _NOOP
        fact.turn_ids.append(turn_id)
        if kind == "w":
            return sentence, "", Operation(OperationKind.DELETE, entry_id=fact.entry_id)
        fact.text = fact.text.replace(fact.date, date) if moved else _upper_first(phrase.entry.format(**words))
        if kind in ("s", "u"):
            fact.entry_id, self._next_id = self._next_id, self._next_id + 1
            return sentence, "", Operation(OperationKind.ADD, text=fact.text)
        return sentence, "", Operation(OperationKind.UPDATE, text=fact.text, entry_id=fact.entry_id)


def _led(lead: str, sentence: str) -> str:
    """Put an opener or joiner before the sentence, lowering its first letter if it starts with a plain word."""
    if not lead:
        return _upper_first(sentence)
    plain = sentence.split()[0] in _PLAIN_STARTS
    return f"{lead} {sentence[0].lower() + sentence[1:] if plain else sentence}"


def _plain_starts() -> frozenset[str]:
    """Return the first words of all phrases except "I"; they are neither names nor values and may be lowercase."""
    lines = [line for pool in ("train", "heldout") for line in talk(pool)]
    lines += [
        p.turn for pool in ("train", "heldout") for kinds in phrases(pool).values() for ps in kinds.values() for p in ps
    ]
    return frozenset(line.split()[0] for line in lines) - {"I"}


_PLAIN_STARTS = _plain_starts()
