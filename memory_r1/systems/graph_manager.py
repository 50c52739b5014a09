"""A Memory Manager's operations on the edges of a graph."""

from __future__ import annotations

from collections.abc import Sequence

from memory_r1.memory.graph import Version, merged, versions
from memory_r1.memory.record import Record
from memory_r1.systems.manager import ManagedMemory


class GraphMemory(ManagedMemory):
    """Memory-R1 over a graph: the manager's operations make, supersede and retract edges, link names and summarise.

    Build it with a manager that writes the graph form. An edge is an entry whose text says it, so that entries, recalls
    and the log are those of `ManagedMemory`; the retriever follows the edges (`memory/graph.py`).
    """

    name = "memory-r1-graph"

    def versions(self, scope: str, entry_id: int) -> list[Version]:
        """Return all versions of an entry, oldest first: what it said, since when, and until when."""
        return versions(self.log.history(scope, entry_id))

    def aliases(self, scope: str) -> list[tuple[str, ...]]:
        """Return the names of each entity that has several, in order of first mention."""
        names: dict[str, list[str]] = {}
        for name, stands_for in merged(self.entries(scope)).items():
            names.setdefault(stands_for, []).append(name)
        return [tuple(group) for group in names.values() if len(group) > 1]

    def _with_derived(self, records: Sequence[Record], ids: set[int]) -> set[int]:
        """Add the summaries over the entries."""
        gone = {*ids}
        for record in records:  # what a summary is over comes before it
            gone |= {
                event.item
                for event in record.events
                if event.item is not None and not gone.isdisjoint(event.payload.get("over", ()))
            }
        return gone
