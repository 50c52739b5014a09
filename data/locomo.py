"""LoCoMo (Maharana et al. 2024): ten long dialogues with questions, in the split of the Memory-R1 paper.

CC BY-NC 4.0: loaded from a path or the cache, never shipped. The loader repairs numeric answers and evidence ids that
are misspelt, joined in one string, repeated or without a turn; `locomo_repairs` counts the repairs. Wrong labels and
repeated questions stay as published, so that scores are comparable.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data.banks import Observation
from data.downloads import PublishedFile
from data.loading import Counts, check_name, count, parse_answer, print_counts
from memory_r1.errors import DataError
from memory_r1.json_field import JsonField
from memory_r1.types import Dialogue, Question, Session, Turn

LOCOMO_FILE = PublishedFile(
    name="locomo10.json",
    url="https://raw.githubusercontent.com/snap-research/LoCoMo/3eb6f2c585f5e1699204e3c3bdf7adc5c28cb376/data/locomo10.json",
    size=2_805_274,
    sha256="79fa87e90f04081343b8c8debecb80a9a6842b76a7aa537dc9fdf651ea698ff4",
)
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("conv-26",),
    "validation": ("conv-30",),
    "test": ("conv-41", "conv-42", "conv-43", "conv-44", "conv-47", "conv-48", "conv-49", "conv-50"),
}
"""The split of Memory-R1, by dialogue; `validation` has no question of category 3."""
CATEGORY_NAMES: Mapping[str, Mapping[str, str]] = {
    "1": {"locomo": "multi-hop", "mem0": "single-hop"},
    "2": {"locomo": "temporal", "mem0": "temporal"},
    "3": {"locomo": "open-domain", "mem0": "multi-hop"},
    "4": {"locomo": "single-hop", "mem0": "open-domain"},
    "5": {"locomo": "adversarial", "mem0": "adversarial"},
}
"""Category names in the authors' code and in the tables of Mem0 and Memory-R1, which differ."""
SCORED_CATEGORIES = ("1", "2", "3", "4")
NOT_MENTIONED = "not mentioned"
"""Gold answer of every category 5 question, which LoCoMo's own metric recognises as a refusal. The wrong answers in the
file (`adversarial_answer`) are not read."""
REPAIRS = (
    "integer_answers",
    "malformed_evidence",
    "evidence_with_leading_zeros",
    "evidence_without_turn",
    "repeated_evidence",
    "dates_without_session",
    "questions_without_evidence",
    "repeated_questions",
)

_TURN_ID = re.compile(r"D:?\s*(\d+)\s*:\s*(\d+)")
_WELL_FORMED_ID = re.compile(r"D\d+:\d+")
_SESSION = re.compile(r"session_(\d+)")
_SESSION_DATE = re.compile(r"session_(\d+)_date_time")
_OBSERVATIONS = re.compile(r"session_(\d+)_observation")
_DATE_FORMAT = "%I:%M %p on %d %B, %Y"


def load_locomo(path: Path | str | None = None, cache: Path | str | None = None, verify: bool = True) -> list[Dialogue]:
    """Load all ten dialogues with the questions of all five categories.

    `path` is locomo10.json or its folder; without one, the file comes from the cache, downloaded if missing. A turn id
    is the file's `dia_id`, a question id the dialogue id and the index in its `qa` (`conv-26:12`), and a category the
    file's number as a string. A turn's text includes the caption of a shared photo, but not the search `query` behind
    it, since no speaker says it.

    Raises:
        ChecksumError: `verify` is on and the bytes are not the published ones.
        DataError: There is no such file, it cannot be downloaded, or it is malformed.
    """
    conversations = _conversations(path, cache, verify)
    return [_parse_conversation(item, Counter()) for item in conversations]


def download_locomo(cache: Path | str | None = None) -> Path:
    """Return the file's path in the cache; download and check it if missing; raise like `load_locomo`."""
    return LOCOMO_FILE.fetch(cache)


def locomo_split(
    dialogues: Iterable[Dialogue], split: str, categories: Collection[str] = SCORED_CATEGORIES
) -> list[Dialogue]:
    """Return the dialogues of "train", "validation" or "test", with the questions of these categories only.

    Raises:
        ConfigurationError: There is no such split or category.
        DataError: A dialogue of the split is missing.
    """
    check_name("LoCoMo split", split, SPLITS)
    for category in categories:
        check_name("LoCoMo category", category, CATEGORY_NAMES)
    by_id = {dialogue.dialogue_id: dialogue for dialogue in dialogues}
    missing = [dialogue_id for dialogue_id in SPLITS[split] if dialogue_id not in by_id]
    if missing:
        raise DataError(f"found no LoCoMo dialogue {missing[0]}, which split {split} needs; load the whole file")
    return [
        replace(
            by_id[dialogue_id], questions=tuple(q for q in by_id[dialogue_id].questions if q.category in categories)
        )
        for dialogue_id in SPLITS[split]
    ]


def locomo_repairs(
    path: Path | str | None = None, cache: Path | str | None = None, verify: bool = True
) -> dict[str, int]:
    """Count each of `REPAIRS`; the last two change nothing.

    Evidence counts are per faulty string or id. `questions_without_evidence` counts after repair, and
    `repeated_questions` counts questions worded like an earlier one of the dialogue.
    """
    repairs: Counter[str] = Counter()
    for item in _conversations(path, cache, verify):
        dialogue = _parse_conversation(item, repairs)
        repairs["questions_without_evidence"] += sum(not question.evidence for question in dialogue.questions)
        wordings = {question.question for question in dialogue.questions}
        repairs["repeated_questions"] += len(dialogue.questions) - len(wordings)
    return {name: repairs[name] for name in REPAIRS}


def locomo_observations(
    path: Path | str | None = None, cache: Path | str | None = None, verify: bool = True
) -> dict[str, list[Observation]]:
    """Return by dialogue id the facts that the authors' model noted about each speaker, by session."""
    observations: dict[str, list[Observation]] = {}
    for item in _conversations(path, cache, verify):
        dialogue = _parse_conversation(item, Counter())
        order = {turn.turn_id: position for position, turn in enumerate(dialogue.turns())}
        sessions = item.members(("observation",), closed=False)["observation"].members((), closed=False)
        observations[dialogue.dialogue_id] = [
            _parse_observation(fact, speaker, order)
            for key in _numbered(sessions, _OBSERVATIONS).values()
            for speaker, facts in sessions[key].members((), closed=False).items()
            for fact in facts.items()
        ]
    return observations


def locomo_counts(path: Path | str | None = None, verify: bool = True) -> Counts:
    """Return the counts of the file and of each split (categories 1 to 4), the category names and the repairs."""
    dialogues = load_locomo(path, verify=verify)
    splits = {split: count(locomo_split(dialogues, split)) for split in SPLITS}
    return {
        "benchmark": "locomo",
        "splits": {"all": count(dialogues), **splits},
        "category_names": CATEGORY_NAMES,
        "repairs": locomo_repairs(path, verify=verify),
    }


def _conversations(path: Path | str | None, cache: Path | str | None, verify: bool) -> list[JsonField]:
    return LOCOMO_FILE.document(path, cache, verify=verify).items(at_least=1)


def _parse_conversation(field: JsonField, repairs: Counter[str]) -> Dialogue:
    members = field.members(("sample_id", "conversation", "qa"), closed=False)
    dialogue_id = members["sample_id"].text()
    conversation = members["conversation"].members(("speaker_a", "speaker_b"), closed=False)
    speakers = (conversation["speaker_a"].text(), conversation["speaker_b"].text())
    numbered = _numbered(conversation, _SESSION)
    sessions = tuple(_parse_session(conversation, members["conversation"], number, speakers) for number in numbered)
    repairs["dates_without_session"] += len(_numbered(conversation, _SESSION_DATE).keys() - numbered.keys())
    order: dict[str, int] = {}
    for session in sessions:
        for turn in session.turns:
            if turn.turn_id in order:
                members["conversation"].fail(f"different dia_ids ({turn.turn_id} is there twice)")
            order[turn.turn_id] = len(order)
    questions = tuple(
        _parse_question(item, f"{dialogue_id}:{index}", order, repairs)
        for index, item in enumerate(members["qa"].items())
    )
    return Dialogue(dialogue_id, speakers, sessions, questions)


def _parse_session(
    conversation: Mapping[str, JsonField], field: JsonField, number: int, speakers: Sequence[str]
) -> Session:
    session_id, date_key = f"session_{number}", f"session_{number}_date_time"
    date = field.members((date_key,), closed=False)[date_key]
    timestamp = date.time_like(_DATE_FORMAT, "1:56 pm on 8 May, 2023")
    turns = []
    for item in conversation[session_id].items(at_least=1):
        turn = item.members(("speaker", "dia_id", "text"), closed=False)
        if turn["speaker"].text() not in speakers:
            turn["speaker"].fail(f"one of the speakers, {' or '.join(speakers)}")
        text = turn["text"].text(blank=True).strip()
        if "blip_caption" in turn:
            text = f"{text} [shares a photo: {turn['blip_caption'].text().strip()}]".strip()
        turns.append(Turn(turn["dia_id"].text(), turn["speaker"].text(), text, session_id, timestamp))
    return Session(session_id, timestamp, tuple(turns))


def _parse_question(field: JsonField, question_id: str, order: Mapping[str, int], repairs: Counter[str]) -> Question:
    members = field.members(("question", "category", "evidence"), closed=False)
    category = str(members["category"].value)
    if category not in CATEGORY_NAMES:
        members["category"].fail("1, 2, 3, 4 or 5")
    if category == "5":
        answer = NOT_MENTIONED
    else:
        answer = parse_answer(field.members(("answer",), closed=False)["answer"], repairs)
    cited = [item.text() for item in members["evidence"].items()]
    return Question(question_id, members["question"].text(), answer, category, _turn_ids(cited, order, repairs))


def _parse_observation(field: JsonField, speaker: str, order: Mapping[str, int]) -> Observation:
    fact = field.items(at_least=2)
    cited = [item.text() for item in fact[1].items()] if isinstance(fact[1].value, list) else [fact[1].text()]
    return Observation(speaker, fact[0].text(), _turn_ids(cited, order, Counter()))


def _turn_ids(cited: Iterable[str], order: Mapping[str, int], repairs: Counter[str]) -> tuple[str, ...]:
    """Return the existing turns that these strings cite in any spelling, once each and in dialogue order."""
    found: set[str] = set()
    for text in cited:
        repairs["malformed_evidence"] += not _WELL_FORMED_ID.fullmatch(text)
        for session, position in _TURN_ID.findall(text):
            turn_id = f"D{int(session)}:{int(position)}"
            repairs["evidence_with_leading_zeros"] += turn_id != f"D{session}:{position}"
            repairs["evidence_without_turn"] += turn_id not in order
            repairs["repeated_evidence"] += turn_id in found
            if turn_id in order:
                found.add(turn_id)
    return tuple(sorted(found, key=order.__getitem__))


def _numbered(members: Mapping[str, JsonField], pattern: re.Pattern[str]) -> dict[int, str]:
    """Map session numbers to the keys that match the pattern, in order."""
    matches = [match for key in members if (match := pattern.fullmatch(key))]
    return {int(match[1]): match[0] for match in sorted(matches, key=lambda match: int(match[1]))}


if __name__ == "__main__":
    sys.exit(print_counts(locomo_counts, "LoCoMo (locomo10.json or a folder that holds it)"))
