"""Systems that ask a model to write: a short prompt, a JSON schema, and rules for what does not parse.

A system states a `WritingTask` and, for each text, what the rules would write. The model's reply counts if it is one
JSON value of the task's schema; otherwise the rules' value stands in. Every writing leaves an event in the log that
says which it was, so the share of fallbacks can be told from the log alone, after a resumed run too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memory_r1.errors import DataError
from memory_r1.inference.language_model import LanguageModel, Messages, Schema, room_for
from memory_r1.json_field import parse_json
from memory_r1.memory.record import WRITTEN, Event, Record
from memory_r1.types import MemoryEntry

_FENCE = re.compile(r"^```(?:json)?\s*(.*?)\s*```$", re.DOTALL)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class WritingTask:
    """Something that a model writes: `instructions` ask for JSON of `schema`, of at most `max_new_tokens`.

    The schema may use `type` (object, array, string, integer), `properties`, `required`, `items`, `maxItems`,
    `minLength`, `maxLength` and `enum`; an object holds no members but its properties (`object_of`).
    """

    name: str
    instructions: str
    schema: Schema
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Writing:
    """What was written, with the record of who wrote it and what it cost."""

    value: dict[str, Any]
    record: Record


class Writer:
    """Writes with a model, or without one by rules alone.

    Args:
        model: The language model, local or behind a server; None for rules alone.
        adapter: Name of the adapter to use; None for the base model.
        constrained: Hold completions to the schema, token by token (local models).
    """

    def __init__(
        self, model: LanguageModel | None = None, *, adapter: str | None = None, constrained: bool = False
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.constrained = constrained

    def write(
        self, task: WritingTask, texts: Sequence[Sequence[str]], by_rules: Sequence[dict[str, Any]]
    ) -> list[Writing]:
        """Write once per text, greedily and in one batch.

        Args:
            task: What to write.
            texts: The lines to read. If a prompt exceeds the model's window, its first lines are left out.
            by_rules: What the rules write from each text.

        Raises:
            EndpointError: The model's server gives no reply; nothing is lost, the same call can be made again.
        """
        if self.model is None or not texts:
            return [Writing(value, Record(events=(_event(task, "rules"),))) for value in by_rules]
        fitted = [_fit(self.model, task, lines) for lines in texts]
        completions = self.model.generate(
            [prompt for prompt, _ in fitted],
            max_new_tokens=task.max_new_tokens,
            adapter=self.adapter,
            schemas=[task.schema] * len(fitted) if self.constrained else None,
        )
        written = []
        for (_, cut), completion, fallback in zip(fitted, completions, by_rules, strict=True):
            value = read(completion.text, task.schema)
            record = Record(
                events=(_event(task, "rules" if value is None else "model"),),
                completion=completion.text,
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=completion.completion_tokens,
                model_calls=1,
                cut=cut,
            )
            written.append(Writing(fallback if value is None else value, record))
        return written


def read(completion: str, schema: Schema) -> dict[str, Any] | None:
    """Return the value of a completion, or None if it is not one JSON value of the schema that a log can store."""
    text = completion.strip()
    fenced = _FENCE.match(text)
    try:
        value = parse_json(fenced[1] if fenced else text, "completion")
    except DataError:
        return None
    return value if isinstance(value, dict) and conforms(value, schema) else None


def conforms(value: object, schema: Schema) -> bool:
    """Return whether a JSON value has the form of a schema, of which `WritingTask` names the keywords."""
    if "enum" in schema and value not in schema["enum"]:
        return False
    if schema["type"] == "object":
        members = schema["properties"]
        return (
            isinstance(value, dict)
            and value.keys() <= members.keys()
            and all(name in value for name in schema.get("required", ()))
            and all(conforms(item, members[name]) for name, item in value.items())
        )
    if schema["type"] == "array":
        return (
            isinstance(value, list)
            and len(value) <= schema.get("maxItems", len(value))
            and all(conforms(item, schema["items"]) for item in value)
        )
    if schema["type"] == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return (
        isinstance(value, str)
        and schema.get("minLength", 0) <= len(value.strip())
        and len(value) <= schema.get("maxLength", len(value))
        and not _UNSTORABLE.search(value)
    )


def text_object(name: str, longest: int) -> Schema:
    """Return the schema of an object with one member, a text that is not empty and has at most `longest` characters."""
    return object_of({name: {"type": "string", "minLength": 1, "maxLength": longest}})


def object_of(properties: Mapping[str, Schema]) -> Schema:
    """Return the schema of an object with these members, all of them required, and no others."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def joined(writings: Iterable[Writing]) -> Record:
    """Return one record of several writings: their events, their summed cost, and a completion a line."""
    records = [writing.record for writing in writings]
    return Record(
        events=tuple(event for record in records for event in record.events),
        completion="\n".join(record.completion for record in records if record.model_calls),
        prompt_tokens=sum(record.prompt_tokens for record in records),
        completion_tokens=sum(record.completion_tokens for record in records),
        model_calls=sum(record.model_calls for record in records),
        cut=sum(record.cut for record in records),
    )


def counting_refused(writing: Writing, refused: int) -> Writing:
    """Note in the event of a writing how many of its operations were refused."""
    (event,) = writing.record.events
    counted = replace(event, payload={**event.payload, "refused": refused})
    return replace(writing, record=replace(writing.record, events=(counted,)))


def count_writings(records: Iterable[Record]) -> dict[str, int]:
    """Count the writings of a log, `written_by_model` and `written_by_rules`; empty if nothing was written."""
    by = [event.payload["by"] for record in records for event in record.events if event.kind == WRITTEN]
    return {f"written_by_{who}": by.count(who) for who in ("model", "rules")} if by else {}


def cost_of(writings: Iterable[Writing]) -> dict[str, int]:
    """Return what writing for one recall cost: `model_calls`, `model_tokens`, and `count_writings`."""
    record = joined(writings)
    tokens = record.prompt_tokens + record.completion_tokens
    return {"model_calls": record.model_calls, "model_tokens": tokens, **count_writings([record])}


def texts_of(records: Iterable[Record]) -> list[tuple[int, Mapping[str, Any]]]:
    """Return every version of every item that has a text: the item's id and the version."""
    return [
        (event.item, event.payload)
        for record in records
        for event in record.events
        if event.item is not None and "text" in event.payload
    ]


def written_from(records: Iterable[Record], ids: Collection[int], marks: Collection[str]) -> set[int]:
    """Return `ids` with the entries written from their turns, which the versions of such entries mark with a key.

    A summary that outlives a turn would keep what `forget` is to erase.
    """
    versions = texts_of(records)
    derived = [(item, version) for item, version in versions if not version.keys().isdisjoint(marks)]
    erased = {*ids}.difference(item for item, _ in derived)
    turn_ids = {turn_id for item, version in versions if item in erased for turn_id in version["turn_ids"]}
    return {*ids, *(item for item, version in derived if turn_ids.intersection(version["turn_ids"]))}


def lines_of(entries: Iterable[MemoryEntry]) -> list[str]:
    """Return entries as lines of a prompt."""
    return [f"{entry.speaker}: {entry.text}" if entry.speaker else entry.text for entry in entries]


def shown_name(system: str, counts: Mapping[str, float]) -> str:
    """Return the name under which results show a system: with "(rules)" if the rules wrote more than half."""
    by_model, by_rules = counts.get("written_by_model", 0), counts.get("written_by_rules", 0)
    return f"{system} (rules)" if by_rules > by_model else system


def _event(task: WritingTask, by: str) -> Event:
    return Event(WRITTEN, payload={"task": task.name, "by": by})


def _fit(model: LanguageModel, task: WritingTask, lines: Sequence[str]) -> tuple[Messages, int]:
    """Return the prompt, and the number of lines left out of it or shortened to fit the model's window."""
    kept = list(lines)
    while (room := room_for(model, prompt_for(task, kept), task.max_new_tokens)) is not None and room < 0:
        if len(kept) > 1:
            kept = kept[1:]
        elif kept and kept[0]:
            share = 1 + room / max(1, model.count_tokens(kept[0]))  # room is below 0
            kept = [kept[0][: min(int(len(kept[0]) * max(share, 0)), len(kept[0]) - 1)]]
        else:
            break
    return prompt_for(task, kept), len(lines) - len(kept) + (kept[-1:] != list(lines[-1:]))


def prompt_for(task: WritingTask, lines: Sequence[str]) -> Messages:
    """Return the prompt for one text."""
    return [{"role": "system", "content": task.instructions}, {"role": "user", "content": "\n".join(lines)}]
