"""How memories, operations and answers look on a terminal: one coloured line each.

A memory is called by its number, `#3`, which stays its own for good; its public id holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from memory_r1.assistant.ids import make_id, read_id
from memory_r1.entry import plain
from memory_r1.errors import DataError

if TYPE_CHECKING:
    from memory_r1.assistant.results import Added, Answered, Change, MemoryItem
    from memory_r1.assistant.stored import StoredMemory

ADDED, CHANGED, REMOVED, ASIDE, REFUSED = "green", "yellow", "red", "dim", "magenta"


def number_of(memory_id: str) -> int:
    """Return the number of a memory, given its public id."""
    named = read_id(memory_id)
    assert named is not None, "ids come from the memory itself"
    return named[1]


def id_of(name: str, memory: StoredMemory, user: str) -> str:
    """Return the public id of a memory, which `name` gives as "3", "#3" or by the id itself.

    Raises:
        DataError: It is none of these, or the user never had a memory of this number.
    """
    from memory_r1.assistant.system import key_of

    digits = name.removeprefix("#")
    if digits.isdecimal() and len(digits) < 10:
        if not memory.log.history(user, int(digits)):
            raise DataError(f"{user} has no memory #{digits}: memory-r1 list shows the numbers")
        return make_id(user, int(digits), key_of(memory.log, user))
    if read_id(name) is None:
        raise DataError(f"no memory is called {name!r}: give the number that memory-r1 list shows, such as 3")
    return name


def added_lines(added: Added) -> Iterator[Text]:
    """Yield the operations that an `add` did and that it refused, and what the guards did to the message."""
    for done in added["results"]:
        number = number_of(done["id"])
        if done["event"] == "DELETE":
            yield _change(number, done["memory"], None)
        else:
            yield _change(number, done.get("previous_memory"), done["memory"])
    if not added["results"]:
        yield Text("nothing to store", ASIDE)
    for refused in added["refused"]:
        yield Text(plain(f"! refused ({refused['reason']}): {refused['operation']}"), REFUSED)
    if added["masked"]:
        yield Text(f"! masked: {', '.join(added['masked'])}", REFUSED)
    if added["shortened"]:
        yield Text("! cut to the longest message that is read", REFUSED)


def changed_lines(before: Sequence[MemoryItem], after: Sequence[MemoryItem]) -> Iterator[Text]:
    """Yield what differs between the memories before and after."""
    old, new = ({number_of(item["id"]): item["memory"] for item in items} for items in (before, after))
    for number in sorted({*old, *new}):
        if old.get(number) != new.get(number):
            yield _change(number, old.get(number), new.get(number))


def memory_line(item: MemoryItem) -> Text:
    """Return a memory with its number, its day and, if it was searched for, its score."""
    line = Text(f"#{number_of(item['id'])} ", ASIDE)
    line.append(plain(item["memory"]), "default")
    line.append(f"  {item['updated_at'][:10]}")
    score = item.get("score")
    return line if score is None else line.append(f"  {score:.2f}")


def answer_lines(answered: Answered, *, timed: bool) -> Iterator[Text]:
    """Yield an answer, the memories that it relies on, and the seconds that it took if `timed`."""
    yield Text(plain(answered["answer"]) or "(no answer)", "bold")
    for item in answered["relied_on"]:
        yield Text("  from ", ASIDE).append_text(memory_line(item))
    if not answered["relied_on"]:
        yield Text(f"  from none of {len(answered['recalled'])} recalled memories", ASIDE)
    if timed:
        yield Text(f"  {answered['seconds']:.1f} seconds", ASIDE)


def history_line(change: Change) -> Text:
    """Return one change of a memory, with the message that caused it."""
    line = Text(f"{change['updated_at'][:16]} {change['event']:6} ", ASIDE)
    texts = [plain(text) for text in (change["old_memory"], change["new_memory"]) if text is not None]
    line.append(" -> ".join(texts), "default")
    if change["source"]:
        line.append(plain(f"  because {change['actor_id']} said: {change['source']}"))
    return line


def _change(number: int, old: str | None, new: str | None) -> Text:
    if old is None:
        return Text(f"+ #{number} {plain(new or '')}", ADDED)
    if new is None:
        return Text(f"- #{number} {plain(old)}", REMOVED)
    return Text(f"~ #{number} {plain(old)} -> {plain(new)}", CHANGED)
