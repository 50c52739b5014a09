"""All loaders' errors are one line with the file, the field, what was found and what is allowed."""

from __future__ import annotations

import copy
import hashlib
import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pytest

from data.dialogues import counts_of_file
from data.downloads import PublishedFile
from data.loading import Counts, print_counts
from data.locomo import LOCOMO_FILE, load_locomo, locomo_counts, locomo_split
from data.locomo_audit import AUDIT_FILE, audit_counts, load_audit
from data.longmemeval import ORACLE_FILE, SPLITS_FILE, load_longmemeval, longmemeval_counts, longmemeval_split
from data.msc import CONVERSATIONS_FILE, OFFICIAL_NAME, QUESTIONS_FILE, load_msc, msc_counts, msc_split
from memory_r1.dialogue_file import read_dialogues
from memory_r1.errors import ChecksumError, ConfigurationError, DataError
from tests.data.records import LOCOMO, LONGMEMEVAL, LONGMEMEVAL_S, MSC, MSC_CONVERSATION, MSC_QUESTION, OWN, said

DROPPED = object()


@dataclass(frozen=True)
class Loader:
    """A loader that skips the checksum, its file's name, and a valid record."""

    load: Callable[[Path], object]
    name: str
    record: dict[str, Any]
    lines: bool = False  # one record per line; else one array

    def write(self, folder: Path, *records: object) -> Path:
        (folder / CONVERSATIONS_FILE.name).write_text(json.dumps(MSC_CONVERSATION), encoding="utf-8")
        path = folder / self.name
        text = "\n".join(map(json.dumps, records)) if self.lines else json.dumps(records, indent=4)
        path.write_text(text, encoding="utf-8")
        return path


LOADERS = {
    "locomo": Loader(partial(load_locomo, verify=False), LOCOMO_FILE.name, LOCOMO),
    "audit": Loader(
        partial(load_audit, verify=False),
        AUDIT_FILE.name,
        {"question_id": "locomo_0_qa1", "error_type": "AMBIGUOUS"},
    ),
    "oracle": Loader(partial(load_longmemeval, verify=False), ORACLE_FILE.name, LONGMEMEVAL),
    "s": Loader(partial(load_longmemeval, form="s"), "longmemeval_s.json", LONGMEMEVAL_S),
    "msc": Loader(partial(load_msc, form="official"), OFFICIAL_NAME, MSC, lines=True),
    "msc-approximate": Loader(
        partial(load_msc, form="approximate", verify=False), QUESTIONS_FILE.name, MSC_QUESTION, lines=True
    ),
    "dialogues": Loader(read_dialogues, "own.jsonl", OWN, lines=True),
}


def refused(load: Callable[[Path], object], path: Path, where: str) -> str:
    """Return the one-line error of loading `path`, after `where`."""
    with pytest.raises(DataError) as error:
        load(path)
    message = str(error.value)
    assert message.startswith(where) and "\n" not in message
    return message.removeprefix(where)


DATE, SAID = "conversation.session_2_date_time", "haystack_sessions"
REPORTED_AT = {"conversation.session_2[0].dia_id": "conversation", "haystack_dates[0]": SAID}
"""Fields reported at another field's place, since the two are wrong together."""


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("locomo", "qa[0].category", 6, "found 6, allowed: 1, 2, 3, 4 or 5"),
        ("locomo", "qa[0].answer", None, "found null, allowed: a string"),
        ("locomo", "qa[0].answer", True, "found true, allowed: a string"),
        ("locomo", "qa[0].answer", DROPPED, "found nothing"),
        ("locomo", "qa[0].evidence", "D1:1", 'found "D1:1", allowed: an array'),
        ("locomo", "conversation", DROPPED, "found nothing"),
        ("locomo", DATE, "yesterday", 'found "yesterday", allowed: a time such as 1:56 pm on 8 May, 2023'),
        ("locomo", DATE, DROPPED, "found nothing"),
        ("locomo", "conversation.session_1[0].speaker", "Eve", 'found "Eve", allowed: one of the speakers, Ivo or Una'),
        ("locomo", "conversation.session_2[0].dia_id", "D1:1", "found an object, allowed: different dia_ids (D1:1 is"),
        ("audit", "question_id", "locomo_10_qa1", 'found "locomo_10_qa1", allowed: an id as in locomo_0_qa12'),
        ("audit", "question_id", "conv-26:1", 'found "conv-26:1", allowed: an id as in'),
        ("audit", "error_type", "TYPO", 'found "TYPO", allowed: one of WRONG_CITATION, '),
        ("audit", "error_type", DROPPED, "found nothing"),
        ("oracle", "question_type", "chat", 'found "chat", allowed: one of single-'),
        ("oracle", "answer", None, "found null, allowed: a string"),
        ("oracle", "question_date", "today", 'found "today", allowed: a time such as'),
        ("oracle", "haystack_dates[0]", DROPPED, "found an array of 2, allowed: as many as"),
        ("oracle", SAID, DROPPED, "found nothing"),
        ("oracle", f"{SAID}[0][0].role", "system", 'found "system", allowed: user or assistant'),
        ("oracle", f"{SAID}[0][0].content", 1, "found 1, allowed: a string"),
        ("oracle", SAID, [[said("user", "")], []], "found an array of 2, allowed: at least one turn with text"),
        ("msc", "self_instruct", DROPPED, "found nothing"),
        ("msc", "self_instruct.A", None, "found null, allowed: a string"),
        (
            "msc",
            "previous_dialogs[0].time_back",
            "ages ago",
            'found "ages ago", allowed: a distance as in 6 days 3 hours',
        ),
        ("msc", "dialog", [], "found an array of 0, allowed: an array of at least 1"),
        ("msc", "dialog[0].text", DROPPED, "found nothing"),
        ("msc-approximate", "conversation", "v9", 'found "v9", allowed: the id of a conversation in msc_4sess'),
        ("msc-approximate", "index", "12", 'found "12", allowed: a whole number'),
    ],
)
def test_a_record_in_another_shape_is_refused_by_field(
    tmp_path: Path, name: str, field: str, value: object, message: str
) -> None:
    loader = LOADERS[name]
    record: Any = copy.deepcopy(loader.record)
    *way, last = (int(step) if step.isdigit() else step for step in re.findall(r"\w+", field))
    place = reduce(operator.getitem, way, record)
    if value is DROPPED:
        del place[last]
    else:
        place[last] = value
    path = loader.write(tmp_path, record)

    told_at = REPORTED_AT.get(field, field)
    where = f"{path}:1: {told_at}: " if loader.lines else f"{path}: [0].{told_at}: "
    assert refused(loader.load, path, where).startswith(message)


@pytest.mark.parametrize("name", LOADERS)
def test_a_file_cut_short_is_refused_by_name_even_in_a_folder(tmp_path: Path, name: str) -> None:
    loader = LOADERS[name]
    path = loader.write(tmp_path, loader.record, loader.record)
    path.write_bytes(path.read_bytes()[:-4])

    line = ":2" if loader.lines else ""
    given = path if name == "dialogues" else tmp_path
    assert refused(loader.load, given, f"{path}{line}: ").startswith("found malformed JSON")


@pytest.mark.parametrize("name", [name for name, loader in LOADERS.items() if loader.lines])
def test_a_line_that_is_no_utf_8_is_refused(tmp_path: Path, name: str) -> None:
    path = LOADERS[name].write(tmp_path)
    path.write_bytes(b"\xff\xfe\n")
    assert refused(LOADERS[name].load, path, f"{path}:1: ").startswith("found bytes that are not UTF-8")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (
            lambda folder: load_locomo(folder / "none"),
            r"none: cannot be read.*give locomo10\.json or a folder that holds",
        ),
        (load_audit, "cannot be read.*dial481/locomo-audit"),
        (load_longmemeval, r"longmemeval_oracle\.json: cannot be read.*https://huggingface\.co/"),
        (
            partial(load_longmemeval, form="s"),
            r"longmemeval_s_cleaned\.json or longmemeval_s\.json.*https://huggingface\.co/",
        ),
        (
            lambda folder: load_longmemeval(None, "s", cache=folder / "cache"),
            r"cache/data/longmemeval_s_cleaned\.json: cannot be read",
        ),
        (partial(longmemeval_split, [], "test"), "cannot be read.*MemBuilder"),
        (
            lambda folder: load_msc(folder / "none"),
            r"msc_self_instruct\.jsonl: cannot be read.*MemGPT/MSC-Self-Instruct\)$",
        ),
        (partial(load_msc, form="approximate"), f"{CONVERSATIONS_FILE.name}: cannot be read"),
        (lambda folder: read_dialogues(folder / "none.jsonl"), r"none\.jsonl: cannot be read.*give a JSONL file"),
    ],
)
def test_a_missing_file_is_named_with_what_to_give(
    tmp_path: Path, load: Callable[[Path], object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("length", [700, None])
@pytest.mark.parametrize(
    ("load", "file"),
    [
        (load_locomo, LOCOMO_FILE),
        (load_audit, AUDIT_FILE),
        (load_longmemeval, ORACLE_FILE),
        (partial(longmemeval_split, [], "test"), SPLITS_FILE),
        (partial(load_msc, form="approximate"), CONVERSATIONS_FILE),
    ],
)
def test_other_bytes_than_the_published_are_refused(
    tmp_path: Path, load: Callable[[Path], object], file: PublishedFile, length: int | None
) -> None:
    content = json.dumps([LONGMEMEVAL], indent=4).encode()[:length]
    path = tmp_path / file.name
    path.write_bytes(content)

    with pytest.raises(ChecksumError) as error:
        load(tmp_path)

    found = f"found {len(content)} bytes with sha256 {hashlib.sha256(content).hexdigest()}"
    expected = f"expected {file.size} bytes with sha256 {file.sha256}"
    assert str(error.value) == f"{path}: cut short: {found}, {expected}; remove it and get {file.url} again"


@pytest.mark.parametrize(
    ("name_it", "message"),
    [
        (lambda: locomo_split([], "dev"), "found LoCoMo split 'dev', allowed: train, validation, test"),
        (lambda: locomo_split([], "train", ("6",)), "found LoCoMo category '6', allowed: 1, 2, 3, 4, 5"),
        (lambda: load_longmemeval("none", "m"), "found LongMemEval form 'm', allowed: oracle, s"),
        (lambda: longmemeval_split([], "validation"), "found LongMemEval split 'validation', .* none is published"),
        (lambda: longmemeval_split([], "dev"), "found LongMemEval split 'dev', allowed: train, sft, rl, test, all$"),
        (lambda: load_msc("none", "session5"), "found MSC form 'session5', allowed: official, approximate"),
        (
            lambda: msc_split([], "test", "approximate"),
            "found split 'test' of msc-approximate, allowed: validation, all",
        ),
        (lambda: msc_split([], "train", "official"), "found split 'train' of msc, allowed: test, all"),
    ],
)
def test_an_unknown_name_is_refused_with_those_there_are(name_it: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        name_it()


@pytest.mark.parametrize("counts_of", [locomo_counts, audit_counts, longmemeval_counts, msc_counts, counts_of_file])
def test_the_counts_commands_say_an_error_in_one_line_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], counts_of: Callable[[Path], Counts]
) -> None:
    status = print_counts(counts_of, "a file", [str(tmp_path / "none.jsonl")])

    printed = capsys.readouterr()
    assert (status, printed.out) == (1, "")
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert "none.jsonl" in printed.err and ": cannot be read" in printed.err
