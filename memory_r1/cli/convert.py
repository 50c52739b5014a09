"""`memory-r1 convert`: chat exports become dialogues of the project's own format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from memory_r1.cli.chat_exports import ASSISTANT, COLUMNS, USER, Conversation, Form, read_export
from memory_r1.dialogue_file import LONGEST_TEXT, write_dialogues
from memory_r1.errors import ConfigurationError, DataError
from memory_r1.types import Dialogue, Session, Turn

CUT = "messages cut into several turns"


def _column(key: str) -> typer.models.OptionInfo:
    help_text = f"CSV: column of the {key}. Default: the first found of {', '.join(COLUMNS[key])}."
    return typer.Option(f"--{key}-column", metavar="NAME", help=help_text, show_default=False)


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The export.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The JSONL file to write.")],
    form: Annotated[Form | None, typer.Option("--from", help="Format of IN. Default: found out.")] = None,
    user: Annotated[str, typer.Option(metavar="NAME", help="Name to give the user.")] = USER,
    assistant: Annotated[str, typer.Option(metavar="NAME", help="Name to give the assistant.")] = ASSISTANT,
    join: Annotated[bool, typer.Option("--join", help="One dialogue of all conversations, in order of time.")] = False,
    time: Annotated[
        datetime | None, typer.Option(help="Time of conversations that state none. Default: when IN was last changed.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    conversation_column: Annotated[str | None, _column("conversation")] = None,
    time_column: Annotated[str | None, _column("time")] = None,
    speaker_column: Annotated[str | None, _column("speaker")] = None,
    text_column: Annotated[str | None, _column("text")] = None,
) -> None:
    """Turn a chat export into dialogues (JSONL) that memory-r1 reads.

    IN is an OpenAI chat file (JSON or JSONL with "messages"), ChatGPT's conversations.json, ShareGPT (JSON or JSONL
    with "conversations"), or CSV with a header. Each conversation becomes one session.

    Example: memory-r1 convert conversations.json own.jsonl --user Ann --join
    """
    if output.exists() and (not force or output.samefile(source)):
        raise ConfigurationError(f"{output} exists; give another OUT{'' if force else ', or --force to replace it'}")
    if user == assistant:
        raise ConfigurationError(f"--user and --assistant are both {user!r}; give them different names")
    columns = {"conversation": conversation_column, "time": time_column, "speaker": speaker_column, "text": text_column}
    export = read_export(source, form, columns)
    if not export.conversations:
        raise DataError(f"{source}: found no message of a user or an assistant ({export.form}), allowed: at least one")
    fallback = _fallback(source, export.conversations, time)
    undated = sum(not conversation.timestamp for conversation in export.conversations)
    counts: Counter[str] = Counter(export.left_out)
    names = {USER: user, ASSISTANT: assistant}
    sessions = [_session(conversation, fallback, names, counts) for conversation in export.conversations]
    dialogues = list(_dialogues(source, sessions, join))
    write_dialogues(output, dialogues)
    turns = sum(len(session.turns) for session in sessions)
    typer.echo(f"{output}: dialogues {len(dialogues)}, sessions {len(sessions)}, turns {turns} (from {export.form})")
    for kind, count in counts.items():
        if count:
            typer.echo(f"  {count} {kind}" + ("" if kind == CUT else " left out"))
    if export.without_messages:
        typer.echo(f"  {export.without_messages} conversations without a message left out")
    if undated:
        typer.echo(f"  {undated} conversations state no time and got {fallback} (--time sets another)")


def _session(conversation: Conversation, fallback: str, names: Mapping[str, str], counts: Counter[str]) -> Session:
    begun = conversation.timestamp or fallback
    session_id = conversation.conversation_id
    turns: list[Turn] = []
    for message in conversation.messages:
        pieces = [message.text[at : at + LONGEST_TEXT] for at in range(0, len(message.text), LONGEST_TEXT)]
        counts[CUT] += len(pieces) > 1
        turns += [
            Turn(
                f"{session_id}:{number}",
                names.get(message.speaker, message.speaker),
                piece,
                session_id,
                message.timestamp or begun,
            )
            for number, piece in enumerate(filter(str.strip, pieces), start=len(turns) + 1)
        ]
    return Session(session_id, begun, tuple(turns))


def _dialogues(source: Path, sessions: Sequence[Session], join: bool) -> Iterator[Dialogue]:
    """Yield one dialogue per session, or one of all sessions in order of time.

    Raises:
        DataError: Times with and without a UTC offset meet in one dialogue, which has no order then.
    """
    for together in [sessions] if join else [[session] for session in sessions]:
        stamps = [turn.timestamp for session in together for turn in session.turns]
        stamps += [session.timestamp for session in together]
        if len({_zoned(stamp) for stamp in stamps}) > 1:
            where = f"{source}: conversation {together[0].session_id!r}" + (" and others" if join else "")
            raise DataError(f"{where}: found times with and without a UTC offset, allowed: all with or all without")
        ordered = sorted(together, key=lambda session: datetime.fromisoformat(session.timestamp))
        speakers = dict.fromkeys(turn.speaker for session in ordered for turn in session.turns)
        yield Dialogue(source.stem if join else together[0].session_id, tuple(speakers), tuple(ordered))


def _fallback(source: Path, conversations: Sequence[Conversation], time: datetime | None) -> str:
    """Return the time of conversations without one; it has a UTC offset unless other conversations have none."""
    if time is not None:
        return time.isoformat()
    changed = datetime.fromtimestamp(int(source.stat().st_mtime), UTC)
    naive = any(conversation.timestamp and not _zoned(conversation.timestamp) for conversation in conversations)
    return (changed.replace(tzinfo=None) if naive else changed).isoformat()


def _zoned(timestamp: str) -> bool:
    return datetime.fromisoformat(timestamp).tzinfo is not None
