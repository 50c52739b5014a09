"""LongMemEval (Wu et al. 2025): 500 questions, each with its own chat history between a user and an assistant.

It has two forms: `oracle` histories hold only the evidence sessions, and `s` hides them among some 40 others. The forms
date the same question differently, so they are never mixed. MIT licence; loaded from a path or the cache. The loader
repairs unsorted sessions, numeric answers, sessions repeated within a history, and turns without text.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from data.downloads import PublishedFile, cache_folder
from data.loading import Counts, check_name, count, parse_answer, print_counts
from memory_r1.errors import DataError
from memory_r1.json_field import JsonField, parse_document, read_bytes
from memory_r1.types import Dialogue, Question, Session, Turn

logger = logging.getLogger(__name__)

_HUB = "https://huggingface.co/datasets/xiaowu0162/longmemeval-cleaned/resolve/98d7416c24c778c2fee6e6f3006e7a073259d48f"
ORACLE_FILE = PublishedFile(
    name="longmemeval_oracle.json",
    url=f"{_HUB}/longmemeval_oracle.json",
    size=15_388_478,
    sha256="821a2034d219ab45846873dd14c14f12cfe7776e73527a483f9dac095d38620c",
)
SPLITS_FILE = PublishedFile(
    name="membuilder_longmemeval_splits.json",
    url="https://raw.githubusercontent.com/Zh1yuShen/MemBuilder/a9a0bc7d77478b6014c682c204035bd3dd806232/"
    "data/longmemeval/splits/longmemeval_splits.json",
    size=8_702,
    sha256="e9b777da5185ead332ef5e2ac0681c39678bb4891436ab9db0d62526e17e67c7",
)
"""Question ids of MemBuilder's split (MIT): 50 `sft`, 50 `rl`, 400 `test`."""
S_NAMES = ("longmemeval_s_cleaned.json", "longmemeval_s.json")
S_URL = f"{_HUB}/{S_NAMES[0]}"
FORMS = ("oracle", "s")
SPEAKERS = ("user", "assistant")
CATEGORIES = (
    "single-session-user",
    "single-session-assistant",
    "single-session-preference",
    "multi-session",
    "temporal-reasoning",
    "knowledge-update",
)
"""The authors' question types. Answers of `single-session-preference` are rubrics, so their F1 is meaningless."""
ABSTENTION = "_abs"
"""Suffix of the id of a question that the history does not answer; it keeps the original question's type."""
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("sft", "rl"),
    "sft": ("sft",),
    "rl": ("rl",),
    "test": ("test",),
    "all": ("sft", "rl", "test"),
}
"""Split to its lists in `SPLITS_FILE`; there is no published validation split."""
SHARED_WITH_TRAINING = frozenset({
    "0862e8bf_abs", "15745da0", "2311e44b_abs", "6aeb4375_abs", "80ec1f4f", "88432d0a_abs", "89941a93", "a96c20ee",
    "bc8a6e93_abs", "eeda8a6d_abs", "f685340e", "gpt4_372c3eed", "gpt4_468eb063", "gpt4_e061b84g", "gpt4_fe651585_abs",
})  # fmt: skip
"""Published test questions that share an evidence session with a training question, word for word though mostly under
another id. `test` leaves them out, in both forms."""
REPAIRS = (
    "integer_answers",
    "unsorted_histories",
    "histories_beyond_the_question",
    "repeated_sessions",
    "turns_without_text",
    "sessions_without_text",
)


def load_longmemeval(
    path: Path | str | None = None, form: str = "oracle", cache: Path | str | None = None, verify: bool = True
) -> list[Dialogue]:
    """Load all questions of a form; each question and its history become a dialogue with the question's id.

    `path` is the file or its folder; without one, the file comes from the cache, where oracle is downloaded if missing
    and S must be put by hand. Sessions are sorted by date; a repeated one is named `<id>#2`. Turn ids are
    `<session id>:<n>`, n counting from 1 in the file. Evidence is the turns marked `has_answer`. As in the authors'
    code, a session later on the question's day than the question is kept.

    Raises:
        ConfigurationError: There is no such form.
        ChecksumError: `verify` is on and this is not the published oracle file; S is not checked.
        DataError: There is no such file, it is malformed, or it is of the other form.
    """
    return _parse(path, form, cache, verify, Counter())


def longmemeval_split(
    dialogues: Sequence[Dialogue],
    split: str,
    path: Path | str | None = None,
    cache: Path | str | None = None,
    verify: bool = True,
) -> list[Dialogue]:
    """Return the dialogues of a split, in the order given; warn if questions of the split are missing.

    `path` is as in `load_longmemeval`; the split file is expected there too. `test` is the published split without
    `SHARED_WITH_TRAINING`.

    Raises:
        ConfigurationError: There is no such split.
        ChecksumError: `verify` is on and the split file is not the published one.
        DataError: The split file is missing or malformed.
    """
    why = "; none is published for validation, hold out some of train" if split == "validation" else ""
    check_name("LongMemEval split", split, SPLITS, why)
    if split == "all":
        return list(dialogues)
    ids = _split_ids(Path(path).parent if path is not None and Path(path).is_file() else path, cache, verify)
    wanted = {question_id for part in SPLITS[split] for question_id in ids[part]}
    if split == "test":
        wanted -= SHARED_WITH_TRAINING
    chosen = [dialogue for dialogue in dialogues if dialogue.dialogue_id in wanted]
    missing = sorted(wanted - {dialogue.dialogue_id for dialogue in chosen})
    if missing:
        found = f"{len(chosen)} of {len(wanted)} questions (no {missing[0]}, for one)"
        logger.warning("LongMemEval %s: the file holds %s; scores do not compare with those on all", split, found)
    return chosen


def longmemeval_counts(path: Path | str, verify: bool = True) -> Counts:
    """Return the counts of every split, its abstention questions, and the repairs; file names decide the form."""
    form = _form_of(Path(path))
    repairs: Counter[str] = Counter()
    dialogues = _parse(path, form, None, verify, repairs)
    splits = {split: longmemeval_split(dialogues, split, path, verify=verify) for split in SPLITS}
    abstention = {
        split: sum(dialogue.dialogue_id.endswith(ABSTENTION) for dialogue in chosen) for split, chosen in splits.items()
    }
    return {
        "benchmark": "longmemeval",
        "form": form,
        "splits": {split: count(chosen) for split, chosen in splits.items()},
        "abstention": abstention,
        "shared_with_training": len(SHARED_WITH_TRAINING),
        "repairs": {name: repairs[name] for name in REPAIRS},
    }


def _parse(
    path: Path | str | None, form: str, cache: Path | str | None, verify: bool, repairs: Counter[str]
) -> list[Dialogue]:
    check_name("LongMemEval form", form, FORMS)
    if form == "oracle":
        where = ORACLE_FILE.find(path, cache)
        content = ORACLE_FILE.read(where, verify=False)
    else:
        where, content = _read_s(path, cache)
    verify = verify and form == "oracle"
    try:
        document = parse_document(content, where, "a LongMemEval file, whole")
    except DataError:
        if verify:
            ORACLE_FILE.check(content, where)
        raise
    records = document.items(at_least=1)
    # Check this first: the checksum would only call a file of the other form "changed".
    for record in records:
        _refuse_other_form(record, form)
    if verify:
        ORACLE_FILE.check(content, where)
    dialogues = [_parse_record(record, repairs) for record in records]
    repeated = [name for name, times in Counter(dialogue.dialogue_id for dialogue in dialogues).items() if times > 1]
    if repeated:
        raise DataError(f"{where}: found question {repeated[0]} more than once, allowed: once")
    return dialogues


def _read_s(path: Path | str | None, cache: Path | str | None) -> tuple[Path, bytes]:
    found = cache_folder(cache) / "data" if path is None else Path(path)
    if found.is_dir() or path is None:
        found = next((found / name for name in S_NAMES if (found / name).is_file()), found / S_NAMES[0])
    return found, read_bytes(found, f"{' or '.join(S_NAMES)} or a folder that holds one ({S_URL})")


def _form_of(path: Path) -> str:
    """Tell the form by file name; in a folder, oracle comes first."""
    if path.is_dir():
        has_s = any((path / name).is_file() for name in S_NAMES)
        return "s" if has_s and not (path / ORACLE_FILE.name).is_file() else "oracle"
    return "s" if path.name in S_NAMES else "oracle"


def _refuse_other_form(record: JsonField, form: str) -> None:
    """Tell the forms apart by their histories: only S has sessions without evidence."""
    members = record.members(("question_id", "haystack_session_ids", "answer_session_ids"), closed=False)
    history, evidence = (
        {item.text() for item in members[key].items()} for key in ("haystack_session_ids", "answer_session_ids")
    )
    others = len(history - evidence)
    if bool(others) != (form == "s"):
        allowed, other = ("none", "s") if form == "oracle" else ("some", "oracle")
        raise DataError(
            f"{record.where}: question {members['question_id'].text()}: found {others} of {len(history)} sessions that "
            f"are no evidence, allowed in form {form}: {allowed}; load it as form {other}, whose dates differ, and "
            f"never mix the two"
        )


def _split_ids(folder: Path | str | None, cache: Path | str | None, verify: bool) -> dict[str, list[str]]:
    members = SPLITS_FILE.document(folder, cache, verify=verify).members(SPLITS["all"], closed=False)
    return {name: [item.text() for item in members[name].items()] for name in SPLITS["all"]}


def _parse_record(field: JsonField, repairs: Counter[str]) -> Dialogue:
    members = field.members(("question_id", "question_type", "question", "answer", "question_date"), closed=False)
    question_id, category = members["question_id"].text(), members["question_type"].text()
    if category not in CATEGORIES:
        members["question_type"].fail(f"one of {', '.join(CATEGORIES)}")
    asked_at = _time(members["question_date"])
    sessions, evidence = _parse_history(field, repairs)
    repairs["histories_beyond_the_question"] += sessions[-1].timestamp > asked_at
    question = Question(
        question_id=question_id,
        question=members["question"].text().strip(),
        answer=parse_answer(members["answer"], repairs).strip(),
        category=category,
        evidence=tuple(turn.turn_id for session in sessions for turn in session.turns if turn.turn_id in evidence),
        asked_at=asked_at,
    )
    return Dialogue(question_id, SPEAKERS, sessions, (question,))


def _parse_history(field: JsonField, repairs: Counter[str]) -> tuple[tuple[Session, ...], Collection[str]]:
    """Return the sessions, oldest first (equal dates in file order), and the ids of their evidence turns."""
    keys = ("haystack_session_ids", "haystack_dates", "haystack_sessions")
    members = field.members(keys, closed=False)
    names, dates, contents = (members[key].items(at_least=1) for key in keys)
    if not len(names) == len(dates) == len(contents):
        members["haystack_sessions"].fail(f"as many as there are ids ({len(names)}) and dates ({len(dates)})")
    stamps = [_time(date) for date in dates]
    order = sorted(range(len(stamps)), key=stamps.__getitem__)
    repairs["unsorted_histories"] += order != list(range(len(stamps)))
    seen: Counter[str] = Counter()
    sessions: list[Session] = []
    evidence: set[str] = set()
    for position in order:
        name = names[position].text()
        seen[name] += 1
        session_id = name if seen[name] == 1 else f"{name}#{seen[name]}"
        repairs["repeated_sessions"] += seen[name] > 1
        turns = _parse_turns(contents[position], session_id, stamps[position], evidence)
        repairs["turns_without_text"] += len(contents[position].items()) - len(turns)
        repairs["sessions_without_text"] += not turns
        if turns:
            sessions.append(Session(session_id, stamps[position], turns))
    if not sessions:
        members["haystack_sessions"].fail("at least one turn with text")
    return tuple(sessions), evidence


def _parse_turns(field: JsonField, session_id: str, timestamp: str, evidence: set[str]) -> tuple[Turn, ...]:
    turns = []
    for number, item in enumerate(field.items(), start=1):
        turn = item.members(("role", "content"), closed=False)
        if turn["role"].text() not in SPEAKERS:
            turn["role"].fail(" or ".join(SPEAKERS))
        text = turn["content"].text(blank=True).strip()
        if not text:
            continue
        turns.append(Turn(f"{session_id}:{number}", turn["role"].text(), text, session_id, timestamp))
        if "has_answer" in turn and turn["has_answer"].value is True:
            evidence.add(turns[-1].turn_id)
    return tuple(turns)


def _time(field: JsonField) -> str:
    return field.time_like("%Y/%m/%d (%a) %H:%M", "2023/04/10 (Mon) 23:07")


if __name__ == "__main__":
    sys.exit(print_counts(longmemeval_counts, "LongMemEval (a file of either form, or a folder that holds one)"))
