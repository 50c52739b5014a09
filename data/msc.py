"""Multi-Session Chat (Xu et al. 2022) with one question per conversation about earlier sessions.

Each of its two sources is a benchmark of its own. `msc` is MSC-Self-Instruct (Packer et al. 2023), the official
questions on five sessions, from a file that the user brings. `msc-approximate` is a development set: four sessions of
MSC's validation conversations, matched to reworded questions by rare words; its numbers compare with nobody else's.
MSC states no licence for its data, so it is loaded from a path and never shipped.

MSC gives no dates, only how long before the newest session an earlier one took place. Timestamps count back from the
made-up day `REFERENCE`; only their distances mean anything.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from data.downloads import PublishedFile, cache_folder
from data.loading import Counts, check_name, count, print_counts
from memory_r1.errors import ConfigurationError
from memory_r1.json_field import JsonField, parse_json, read_bytes, text_lines
from memory_r1.types import Dialogue, Question, Session, Turn

OFFICIAL_NAME = "msc_self_instruct.jsonl"
OFFICIAL_URL = "https://huggingface.co/datasets/MemGPT/MSC-Self-Instruct"
_HAND_MADE = "the development set that data/README.md describes"
CONVERSATIONS_FILE = PublishedFile(
    name="msc_4sessions_valid.jsonl",
    url=_HAND_MADE,
    size=4_153_815,
    sha256="5b4bcb9263921e5b89e11e98ef11d4956f5669cbd147ead932b7ab43b8eeb9bd",
)
QUESTIONS_FILE = PublishedFile(
    name="msc_qa_matched.jsonl",
    url=_HAND_MADE,
    size=96_624,
    sha256="1f61d0d2e35efbc10870d7d846749874a1224e4c365f86a55bea91d526d2e54b",
)
BENCHMARKS = {"official": "msc", "approximate": "msc-approximate"}
"""Form to the benchmark name in its results."""
SPLITS = {"official": ("test", "all"), "approximate": ("validation", "all")}
"""Form to its splits, the default first; both names mean the whole set."""
CATEGORY = "earlier-session"
"""MSC-Self-Instruct has one kind of question."""
SPEAKERS = ("Speaker 1", "Speaker 2")
ASKED = "Speaker 2 asks Speaker 1: {question}"
"""The official questions say "you" and "I"; DMR's prompt says who is who, and here the question does."""
REFERENCE = datetime(2024, 1, 1, 12)
"""Time of the session from which `time_back` counts."""

_SPAN = re.compile(r"(\d+)\s+(week|day|hour|minute)s?")
_UNITS = {name: timedelta(**{f"{name}s": 1}) for name in ("week", "day", "hour", "minute")}


def load_msc(
    path: Path | str | None = None, form: str | None = None, cache: Path | str | None = None, verify: bool = True
) -> list[Dialogue]:
    """Load every question with its conversation, as a dialogue of its own.

    `path` is the official file, or a folder that holds it or the development set's two files, perhaps in a subfolder
    `msc`; the default is the cache. `form` is "official", "approximate", or None for what is there, the official file
    first. No turn is marked as evidence, since no evidence is published. As the development set's questions call the
    first speaker `Speaker_<n>_A`, the second is called `Speaker_<n>_B`.

    Raises:
        ConfigurationError: There is no such form.
        ChecksumError: `verify` is on and the development set's files were changed; the official file is not checked.
        DataError: A file is missing or malformed.
    """
    form = form or msc_form(path, cache)
    check_name("MSC form", form, BENCHMARKS)
    folder = _folder(path, cache)
    if form == "official":
        return _load_official(folder)
    return _load_approximate(_development_folder(folder), verify)


def msc_form(path: Path | str | None = None, cache: Path | str | None = None) -> str:
    """Return the form at `path`: "approximate" if only the development set is there, else "official"."""
    folder = _folder(path, cache)
    if folder.is_file():
        return "approximate" if folder.name in (CONVERSATIONS_FILE.name, QUESTIONS_FILE.name) else "official"
    has_questions = (_development_folder(folder) / QUESTIONS_FILE.name).is_file()
    return "approximate" if has_questions and not _official_path(folder).is_file() else "official"


def msc_split(dialogues: Sequence[Dialogue], split: str, form: str) -> list[Dialogue]:
    """Return all dialogues; raise ConfigurationError if the form has no such split."""
    if split not in SPLITS[form]:
        raise ConfigurationError(f"found split {split!r} of {BENCHMARKS[form]}, allowed: {', '.join(SPLITS[form])}")
    return list(dialogues)


def msc_counts(path: Path | str, verify: bool = True) -> Counts:
    """Return the counts of every split, and those of all conversations of the development set, asked about or not.

    `speakers_by_place` counts the turns whose unnamed speaker is inferred from their place in the session.
    """
    form = msc_form(path)
    dialogues = load_msc(path, form, verify=verify)
    splits = {split: count(msc_split(dialogues, split, form)) for split in SPLITS[form]}
    counts: Counts = {"benchmark": BENCHMARKS[form], "splits": splits}
    if form == "approximate":
        repairs: Counter[str] = Counter()
        conversations = _conversations(_development_folder(_folder(path, None)), verify, repairs)
        counts["conversations"] = {
            "conversations": len(conversations),
            "sessions": sum(len(sessions) for sessions in conversations.values()),
            "turns": sum(len(said) for sessions in conversations.values() for _, said in sessions),
        }
        counts["repairs"] = {"speakers_by_place": repairs["speakers_by_place"]}
    return counts


_Said = tuple[timedelta | None, list[tuple[int, str]]]
"""A session as read: how long before `REFERENCE` (None if unknown), and its turns as (speaker 0 or 1, text)."""


def _load_official(folder: Path) -> list[Dialogue]:
    path = _official_path(folder)
    hint = "; the development set is here: it is form approximate" if msc_form(folder) == "approximate" else ""
    give = f"MSC-Self-Instruct's {OFFICIAL_NAME} or a folder that holds it ({OFFICIAL_URL}){hint}"
    dialogues = []
    for number, record in enumerate(_lines(read_bytes(path, give), path)):
        members = record.members(("previous_dialogs", "dialog", "self_instruct"), closed=False)
        repairs: Counter[str] = Counter()
        sessions: list[_Said] = []
        for item in members["previous_dialogs"].items(at_least=1):
            earlier = item.members(("dialog",), closed=False)
            sessions.append((_time_back(earlier.get("time_back")), _turns(earlier["dialog"], "id", SPEAKERS, repairs)))
        sessions.append((timedelta(), _turns(members["dialog"], "id", SPEAKERS, repairs)))
        asked = members["self_instruct"].members(("B", "A"), closed=False)
        question = ASKED.format(question=asked["B"].text().strip())
        dialogues.append(_dialogue(number, SPEAKERS, sessions, question, asked["A"].text().strip()))
    return dialogues


def _load_approximate(folder: Path, verify: bool) -> list[Dialogue]:
    conversations = _conversations(folder, verify, Counter())
    dialogues = []
    for record in _lines(QUESTIONS_FILE.read(folder, verify=verify), folder / QUESTIONS_FILE.name):
        members = record.members(("index", "conversation", "question", "answer"), closed=False)
        number = members["index"].value
        if not isinstance(number, int):
            members["index"].fail("a whole number")
        if members["conversation"].text() not in conversations:
            members["conversation"].fail(f"the id of a conversation in {CONVERSATIONS_FILE.name}")
        sessions = conversations[members["conversation"].text()]
        speakers = (f"Speaker_{number}_A", f"Speaker_{number}_B")
        question, answer = members["question"].text().strip(), members["answer"].text().strip()
        dialogues.append(_dialogue(number, speakers, sessions, question, answer))
    return dialogues


def _conversations(folder: Path, verify: bool, repairs: Counter[str]) -> dict[str, list[_Said]]:
    conversations = {}
    for record in _lines(CONVERSATIONS_FILE.read(folder, verify=verify), folder / CONVERSATIONS_FILE.name):
        members = record.members(("id", "sessions"), closed=False)
        items = [item.members(("time_back", "turns"), closed=False) for item in members["sessions"].items(at_least=1)]
        conversations[members["id"].text()] = [
            (_time_back(item["time_back"]), _turns(item["turns"], "speaker", (1, 2), repairs)) for item in items
        ]
    return conversations


def _dialogue(
    number: int, speakers: tuple[str, str], sessions: Sequence[_Said], question: str, answer: str
) -> Dialogue:
    sessions = [(back, said) for back, said in sessions if said]
    stamps = _timestamps([back for back, _ in sessions])
    made = []
    for place, (stamp, (_, said)) in enumerate(zip(stamps, sessions, strict=True), start=1):
        session_id = f"s{place}"
        turns = tuple(
            Turn(f"{session_id}:{turn}", speakers[speaker], text, session_id, stamp)
            for turn, (speaker, text) in enumerate(said, start=1)
        )
        made.append(Session(session_id, stamp, turns))
    dialogue_id = f"msc-{number}"
    return Dialogue(dialogue_id, speakers, tuple(made), (Question(dialogue_id, question, answer, CATEGORY),))


def _timestamps(backs: Sequence[timedelta | None]) -> list[str]:
    """Return strictly rising times, one per session.

    The first session after the last known distance is at `REFERENCE`, and later ones follow day by day. Before it, a
    session without a distance is a day before the next; one whose distance is too small is an hour before the next.
    """
    told = [place for place, back in enumerate(backs) if back]
    newest = told[-1] + 1 if told else 0
    times = [REFERENCE + timedelta(days=place - newest) for place in range(len(backs))]
    for place in range(min(newest, len(backs)) - 1, -1, -1):
        later = times[place + 1] if place + 1 < len(times) else REFERENCE
        back = backs[place]
        times[place] = min(REFERENCE - back if back else later - timedelta(days=1), later - timedelta(hours=1))
    return [time.isoformat() for time in times]


def _time_back(field: JsonField | None) -> timedelta | None:
    """Parse `6 days 3 hours ago`; return None if the field is missing or blank."""
    if field is None or field.value is None or not field.text(blank=True).strip():
        return None
    spans = _SPAN.findall(field.text())
    if not spans:
        field.fail("a distance as in 6 days 3 hours ago")
    return sum((int(number) * _UNITS[unit] for number, unit in spans), timedelta())


def _turns(field: JsonField, key: str, names: tuple[object, object], repairs: Counter[str]) -> list[tuple[int, str]]:
    """Return (speaker 0 or 1, text) per turn; if `key` names neither, speakers alternate from the first."""
    said = []
    for place, item in enumerate(field.items(at_least=1)):
        turn = item.members(("text",), closed=False)
        name = turn[key].value if key in turn else None
        repairs["speakers_by_place"] += name not in names
        text = turn["text"].text(blank=True).strip()
        if text:
            said.append((names.index(name) if name in names else place % 2, text))
    return said


def _lines(content: bytes, path: Path) -> Iterator[JsonField]:
    for number, text in text_lines(content, path):
        yield JsonField(parse_json(text, f"{path}:{number}"), f"{path}:{number}")


def _folder(path: Path | str | None, cache: Path | str | None) -> Path:
    """Return the folder to search, or the file given."""
    return cache_folder(cache) / "data" if path is None else Path(path)


def _official_path(folder: Path) -> Path:
    if folder.is_file():
        return folder
    inside = folder / "msc" / OFFICIAL_NAME
    return inside if inside.is_file() else folder / OFFICIAL_NAME


def _development_folder(folder: Path) -> Path:
    folder = folder.parent if folder.is_file() else folder
    inside = folder / "msc"
    return inside if (inside / QUESTIONS_FILE.name).is_file() else folder


if __name__ == "__main__":
    sys.exit(print_counts(msc_counts, "MSC (the official file, or a folder that holds it or the development set)"))
