"""`memory-r1 convert`: other programs' chats become dialogues, and what is left out is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memory_r1.cli.app import main
from memory_r1.dialogue_file import LONGEST_TEXT, read_dialogues


def said(path: Path) -> list[list[tuple[str, str]]]:
    """Return the speakers and texts of each session of a dialogue file."""
    return [
        [(turn.speaker, turn.text) for turn in session.turns]
        for dialogue in read_dialogues(path)
        for session in dialogue.sessions
    ]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def openai(*messages: tuple[str, Any], **members: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages], **members}


def node(parent: str | None, role: str, *parts: Any, time: float | None = None, **members: Any) -> dict[str, Any]:
    content = {"content_type": "text", "parts": list(parts)}
    message = {"author": {"role": role}, "content": content, "create_time": time, **members}
    return {"message": message, "parent": parent}


CHATGPT = [
    {
        "title": "Later",
        "conversation_id": "c2",
        "create_time": 1700000000.5,
        "current_node": "d",
        "mapping": {
            "root": {"message": None, "parent": None},
            "a": node("root", "system", ""),
            "b": node("a", "user", "I moved to Oslo.", {"content_type": "image_asset_pointer"}, time=1700000001),
            "old": node("b", "assistant", "An answer that was regenerated."),
            "c": node("b", "assistant", "search('Oslo')", recipient="browser"),
            "c1": node("c", "assistant", "Hidden.", metadata={"is_visually_hidden_from_conversation": True}),
            "d": node("c1", "assistant", "How nice!", time=1700000009),
        },
    },
    {
        "id": "c1",
        "create_time": 1600000000,
        "mapping": {"x": node(None, "user", "I live in Rome."), "y": node("x", "assistant", "  ")},
    },
]


def test_an_openai_file_keeps_what_user_and_assistant_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    lines = [
        openai(("system", "Be kind."), ("user", picture), ("assistant", "A cat."), created_at="2024-05-01T09:00:00"),
        openai(("developer", "x"), ("tool", "42"), created_at="2024-05-02"),
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}, {"role": "user", "content": "Hi"}]},
    ]
    source = write(tmp_path / "chats.jsonl", "\n".join(map(json.dumps, lines)))
    assert main(["convert", str(source), str(tmp_path / "own.jsonl"), "--user", "Ann", "--time", "2024-06-01"]) == 0
    assert said(tmp_path / "own.jsonl") == [[("Ann", "Look:"), ("assistant", "A cat.")], [("Ann", "Hi")]]
    first, second = read_dialogues(tmp_path / "own.jsonl")
    assert (first.sessions[0].timestamp, second.sessions[0].timestamp) == ("2024-05-01T09:00:00", "2024-06-01T00:00:00")
    assert first.speakers == ("Ann", "assistant")
    printed = capsys.readouterr().out
    assert "dialogues 2, sessions 2, turns 3 (from openai)" in printed
    for line in (
        "2 system and hidden messages left out",
        "2 tool and reasoning messages left out",
        "1 images, files and other parts that are not text left out",
        "1 conversations without a message left out",
        "1 conversations state no time and got 2024-06-01T00:00:00",
    ):
        assert line in printed


def test_chatgpts_tree_is_followed_to_its_current_node_and_joined_in_order_of_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "conversations.json", CHATGPT)
    assert main(["convert", str(source), str(tmp_path / "own.jsonl"), "--join", "--user", "Ann"]) == 0
    (dialogue,) = read_dialogues(tmp_path / "own.jsonl")
    assert said(tmp_path / "own.jsonl") == [
        [("Ann", "I live in Rome.")],
        [("Ann", "I moved to Oslo."), ("assistant", "How nice!")],
    ]
    assert [session.session_id for session in dialogue.sessions] == ["c1", "c2"]
    assert dialogue.sessions[1].timestamp == "2023-11-14T22:13:20+00:00"
    assert [turn.timestamp[11:19] for turn in dialogue.sessions[1].turns] == ["22:13:21", "22:13:29"]
    printed = capsys.readouterr().out
    for count in ("2 system and hidden", "1 tool and", "1 messages of abandoned branches", "1 empty", "1 images"):
        assert count in printed


def test_sharegpt_is_recognised_and_its_roles_are_translated(tmp_path: Path) -> None:
    turns = [("system", "Be kind."), ("human", "Hi"), ("gpt", "Hello"), ("observation", "42")]
    record = {"id": "s", "conversations": [{"from": role, "value": text} for role, text in turns]}
    source = write(tmp_path / "share.json", json.dumps(record, indent=2))
    assert main(["convert", str(source), str(tmp_path / "own.jsonl")]) == 0
    assert said(tmp_path / "own.jsonl") == [[("user", "Hi"), ("assistant", "Hello")]]


def test_csv_columns_are_found_or_named(tmp_path: Path) -> None:
    usual = write(
        tmp_path / "a.csv",
        "Conversation,Time,Speaker,Text\n"
        'm,2024-05-01T09:00:00,Ann,"I moved,\nto Oslo."\nn,2024-05-02,Ben,Hi\nm,2024-05-01T09:01:00,Ben,Nice!\n',
    )
    assert main(["convert", str(usual), str(tmp_path / "a.jsonl")]) == 0
    assert said(tmp_path / "a.jsonl") == [[("Ann", "I moved,\nto Oslo."), ("Ben", "Nice!")], [("Ben", "Hi")]]
    named = write(tmp_path / "b.csv", "who;what\nAnn;Hi\n")
    options = ["--speaker-column", "who", "--text-column", "what"]
    assert main(["convert", str(named), str(tmp_path / "b.jsonl"), *options]) == 0
    assert said(tmp_path / "b.jsonl") == [[("Ann", "Hi")]]


def test_a_text_over_the_limit_becomes_several_turns(tmp_path: Path) -> None:
    source = write(tmp_path / "long.json", [openai(("user", "x" * (LONGEST_TEXT + 1)))])
    assert main(["convert", str(source), str(tmp_path / "own.jsonl")]) == 0
    assert [len(text) for _, text in said(tmp_path / "own.jsonl")[0]] == [LONGEST_TEXT, 1]
    table = write(tmp_path / "long.csv", f"speaker,text\nAnn,{'x' * (2 * LONGEST_TEXT)}\n")
    assert main(["convert", str(table), str(tmp_path / "table.jsonl")]) == 0
    assert [len(text) for _, text in said(tmp_path / "table.jsonl")[0]] == [LONGEST_TEXT] * 2


MIXED = [openai(("user", "a"), created_at="2024-05-01T09:00:00"), openai(("user", "b"), created_at=1700000000)]


@pytest.mark.parametrize(
    ("name", "content", "options", "told"),
    [
        ("a.jsonl", '{"messages": []}\n{"messages": [{"role": "boss"}]}', [], ':2: messages[0].role: found "boss"'),
        ("a.json", [openai(("user", 3))], [], "[0].messages[0].content: found 3, allowed: a string, null, or an array"),
        ("a.json", [{"chat": []}], [], "[0]: found an object with the keys chat, allowed: an object with 'messages'"),
        ("a.json", [openai(("user", "a")), {}], [], "[1].messages: found nothing, required: messages"),
        ("a.json", [openai(("system", "a"))], [], "found no message of a user or an assistant (openai)"),
        ("a.json", [openai(("user", "a"), id="x"), openai(id="x")], [], '[1].id: found "x", allowed: an id that no'),
        ("a.json", MIXED, ["--join"], "found times with and without a UTC offset"),
        ("a.json", "[", [], "found malformed JSON"),
        ("a.json", "", [], "found an empty file"),
        ("a.json", CHATGPT, ["--from", "openai"], "[0].messages: found nothing"),
        ("a.csv", "speaker,text\nAnn,Hi\nBen\n", [], "a.csv:3: found 1 cells, allowed: 2"),
        ("a.csv", "speaker,words\nAnn,Hi\n", [], "a.csv:1: no column for the text among speaker, words"),
        ("a.csv", "time,speaker,text\nnoon,Ann,Hi\n", [], 'a.csv:2: time: found "noon", allowed: a string with an ISO'),
        ("a.csv", "speaker,text\nAnn,Hi\n", ["--text-column", "x"], 'a.csv:1: no column "x", found: speaker, text'),
        (
            "a.json",
            [{"mapping": {"x": {**node("x", "user", "a")}}, "current_node": "x"}],
            [],
            '[0].mapping.x.parent: found "x", allowed: the name of a node',
        ),
    ],
)
def test_a_bad_export_is_told_where_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: object, options: list[str], told: str
) -> None:
    source = write(tmp_path / name, content)
    assert main(["convert", str(source), str(tmp_path / "own.jsonl"), *options]) == 1
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not (tmp_path / "own.jsonl").exists()


def test_a_file_is_replaced_only_on_request_and_the_export_never(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "chats.json", [openai(("user", "Hi"))])
    kept = write(tmp_path / "own.jsonl", "mine")
    assert main(["convert", str(source), str(kept)]) == 1
    assert "--force" in capsys.readouterr().err and kept.read_text() == "mine"
    assert main(["convert", str(source), str(source), "--force"]) == 1
    assert main(["convert", str(source), str(kept), "--force"]) == 0
    assert said(kept) == [[("user", "Hi")]]


def test_milliseconds_and_a_given_time_with_an_offset_meet_in_one_dialogue(tmp_path: Path) -> None:
    source = write(tmp_path / "a.json", [openai(("user", "a"), created_at=1700000000000), openai(("user", "b"))])
    options = ["--join", "--time", "2023-01-01T00:00:00+02:00"]
    assert main(["convert", str(source), str(tmp_path / "own.jsonl"), *options]) == 0
    (dialogue,) = read_dialogues(tmp_path / "own.jsonl")
    stamps = [session.timestamp for session in dialogue.sessions]
    assert stamps == ["2023-01-01T00:00:00+02:00", "2023-11-14T22:13:20+00:00"]
