"""Phrasing of the synthetic dialogues, from the text files in `phrases/`: a training pool and a held-out pool.

The pools share no masked 4-gram. A file has one phrase per line, in sections headed `[name]`.

`facts_<pool>.txt` has a section per attribute with lines `kind: text`. Facts are `turn => entry`: the speaker's words
and the memory written from them. Placeholders: {v} {av} the value, alone and with its article; {old} {aold} the value
it replaces; {d} a date; {x} a pet's name; {n} the speaker; {who} the person asked about; {m} the entry before the turn.
`[den]` tells where a pet, {x}, sleeps; it is told of by its name.
Kinds: `s` state, `c` change, `r` refine, `w` withdraw, `q` question, `a` who-clause of a multi-hop question, `u` state
without a date (dated attributes), `k` question across two turns (pets), `o` a pet's
owner and `p` someone's pet, in a question.

`talk_<pool>.txt` has the text around facts: names for people, openers, joiners (one may be empty), repeaters, and small
talk, where `*` marks replies to the other speaker, {o}.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "phrases"
_POOLS = ("train", "heldout")


def _sections(name: str) -> dict[str, tuple[str, ...]]:
    """Read a file's sections, each as its lines in order; the empty line before a section belongs to neither."""
    sections: dict[str, list[str]] = {}
    for line in (_FOLDER / name).read_text(encoding="utf-8").split("\n"):
        if line.startswith("[") and line.endswith("]"):
            sections[line[1:-1]] = []
        else:
            next(reversed(sections.values())).append(line)
    return {section: tuple(lines[:-1]) for section, lines in sections.items()}


TRAIN, HELDOUT = (_sections(f"facts_{pool}.txt") for pool in _POOLS)
_TALK = {pool: _sections(f"talk_{pool}.txt") for pool in _POOLS}
PEOPLE, OPENERS, JOINERS, REPEATERS, TALK = (
    {pool: _TALK[pool][section] for pool in _POOLS} for section in ("people", "openers", "joiners", "repeaters", "talk")
)
