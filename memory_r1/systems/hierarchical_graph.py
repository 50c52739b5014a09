"""A hierarchy of graphs, as in G-Memory (Zhang et al., 2025): turns below, sessions in the middle, insights above.

The original remembers tasks that several agents solved. Here a session takes the place of a task, its turns that of
the agents' messages, and the reward of a recall that of the task's outcome.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, cast

from memory_r1.errors import ConfigurationError
from memory_r1.memory.embedder import Embedder
from memory_r1.memory.record import SESSION_END, Event, Record
from memory_r1.systems.banked import Proposal, check_not_erased, reading_again
from memory_r1.systems.base import Capability, RecallRequest, TokenCounter, approximate_tokens
from memory_r1.systems.baselines import add_every_turn
from memory_r1.systems.embedded import EmbeddedSystem
from memory_r1.systems.hierarchical_state import INSIGHT, SESSION, HierarchicalState
from memory_r1.systems.insights import INSIGHTS, SHOWN, checked, insight_lines, insights_by_rules
from memory_r1.systems.memorybank import DAY_SUMMARY, LONGEST
from memory_r1.systems.plain_tokens import spoken
from memory_r1.systems.rules import newest, statements
from memory_r1.systems.state import ScopeState
from memory_r1.systems.writer import Writer, counting_refused, joined, lines_of, written_from
from memory_r1.types import MemoryEntry, Recall, Turn

REWARDED, UNREWARDED = 1, -2
"""What feedback adds to the score of an insight that was recalled."""


class HierarchicalGraph(EmbeddedSystem):
    """Stores every turn; when a session ends, links it to similar ones and writes insights.

    A question finds the nearest sessions. From there it goes up to the insights that they support, at most a third of
    the recall, and down to their turns and those of their neighbours; the nearest turns of all fill what is left.

    Args:
        embedder: Encodes turns, summaries, insights and questions.
        writer: Writes summaries and insights; by default the rules do.
        recall_per_speaker: Insights and turns recalled for a question, per speaker.
        hit_sessions: Sessions that a question finds, before the hop to their neighbours.
        edge_similarity: Cosine from which on two sessions are neighbours.
        turn_similarity: Cosine to the question from which on a turn is recalled through its session.
        count_tokens: As in `BankedSystem`.
        states: As in `BankedSystem`.

    Raises:
        ConfigurationError: `hit_sessions` is below 1, or a similarity is not from -1 to 1.
    """

    name = "hierarchical-graph"
    capabilities = frozenset({Capability.ENTRIES, Capability.EDITS, Capability.FEEDBACK})
    start: ClassVar[ScopeState] = HierarchicalState()

    def __init__(
        self,
        embedder: Embedder,
        writer: Writer | None = None,
        *,
        recall_per_speaker: int,
        hit_sessions: int = 3,
        edge_similarity: float = 0.7,
        turn_similarity: float = 0.3,
        count_tokens: TokenCounter = approximate_tokens,
        states: Mapping[str, ScopeState] | None = None,
    ) -> None:
        if hit_sessions < 1:
            raise ConfigurationError(f"hit_sessions is {hit_sessions}: give a number of sessions, at least 1")
        for setting, value in (("edge_similarity", edge_similarity), ("turn_similarity", turn_similarity)):
            if not -1 <= value <= 1:
                raise ConfigurationError(f"{setting} is {value}: give a cosine, from -1 to 1")
        super().__init__(embedder, count_tokens=count_tokens, states=states)
        self._writer = writer or Writer()
        self._recall_per_speaker = recall_per_speaker
        self._hit_sessions = hit_sessions
        self._edge_similarity = edge_similarity
        self._turn_similarity = turn_similarity
        if self._writer.model is not None:
            self.capabilities = self.capabilities | {Capability.MODEL_WRITES}

    def state(self, scope: str) -> HierarchicalState:
        """Return the graphs of a scope; a StoreError if another encoder wrote them."""
        return cast(HierarchicalState, self.embedded_state(scope))

    def _propose(self, turns: Sequence[tuple[Turn, ScopeState]]) -> list[Proposal]:
        rows = self.embed([spoken(turn) for turn, _ in turns])  # (B, E)
        return [
            Proposal(added.operations, notes={0: self.encoder_note}, tensors={0: self.event_tensor(row)})
            for added, row in zip(add_every_turn(turns), rows, strict=True)
        ]

    @reading_again
    def end_session(self, scope: str, now: str) -> None:
        read = self.state(scope)
        said = [read.bank.get(item) for item in read.running]
        if read.ended or not said:
            super().end_session(scope, now)
            return
        (summed,) = self._writer.write(DAY_SUMMARY, [lines_of(said)], [{"summary": _summary_by_rules(said)}])
        summary = summed.value["summary"]
        (node,) = self.embed([summary])  # (E,)
        shown = [read.bank.get(item) for item in sorted(read.nearest(node, SHOWN, read.insights))]
        rules = [{"operations": insights_by_rules(said)}]
        (written,) = self._writer.write(INSIGHTS, [insight_lines(said, shown)], rules)
        changes, refused = checked(written.value["operations"], shown)
        cost = joined([summed, counting_refused(written, refused)])
        texts = list(dict.fromkeys(change.text for change in changes if change.text))
        rows = [node, *self.embed(texts)]
        tensors = {text: self.event_tensor(row) for text, row in zip([summary, *texts], rows, strict=True)}

        def decide(held: ScopeState) -> Record:
            check_not_erased(read, held)
            state = cast(HierarchicalState, held)
            left = {*read.running}.intersection(state.running)
            # Without a turn left, another writer may have ended this session, and the next one is running.
            events = [Event(SESSION_END, payload={"now": now})] if left else []
            if len(left) < len(said):  # ended, or undone
                return replace(cost, events=(*events, *cost.events), completion="")
            session = state.bank.highest_id + 1
            event = self._with_vector(state.session_event(summary, node, self._edge_similarity, now), tensors)
            events.append(event)
            state = state.after(Record(events=(event,)))
            for change in changes:
                if (changed := state.insight_event(change, session, now)) is not None:
                    events.append(self._with_vector(changed, tensors))
                    state = state.after(Record(events=(events[-1],)))
            return replace(cost, events=(*events, *cost.events))

        self._log.write([(scope, decide)])

    def _with_vector(self, event: Event, tensors: Mapping[str, bytes]) -> Event:
        """Return an event with the embedding of its text, if that is among the new ones."""
        tensor = tensors.get(event.payload.get("text", ""))
        payload = {**event.payload, **self.encoder_note} if tensor else event.payload
        return replace(event, payload=payload, tensor=tensor)

    def _rank(self, requests: Sequence[RecallRequest]) -> list[tuple[MemoryEntry, ...]]:
        queries = self.embed([request.query for request in requests])  # (B, E)
        ranked = []
        for request, query in zip(requests, queries, strict=True):
            state = self.state(request.scope)
            k = self._recall_per_speaker * max(1, len(state.speakers))
            hits = state.nearest(query, self._hit_sessions, state.chains)
            above = state.supported(hits)[: k // 3]
            reached = state.turns_of([*hits, *state.neighbours(hits)])
            below = state.similar(query, self._turn_similarity, reached)
            # What the hop found stays ahead of the plain search, which the original lets overwrite it.
            plain = state.nearest(query, k, state.turns())
            found = list(dict.fromkeys([*above, *below, *plain]))[:k]
            ranked.append(tuple(state.bank.get(item) for item in found))
        return ranked

    def feedback(self, recall: Recall, reward: float) -> None:
        """Raise the score of every insight in a recall by 1 if its reward is above 0, and lower it by 2 otherwise.

        For training: it writes to the log, and evaluations never call it. A recall without an insight changes nothing.

        Raises:
            ScopeError: The recall names no scope, as one that no system made.
        """
        weight = REWARDED if reward > 0 else UNREWARDED

        def decide(held: ScopeState) -> Record:
            state = cast(HierarchicalState, held)
            used = [entry.entry_id for entry in recall.items if entry.entry_id in state.insights]
            return Record(events=tuple(state.scored(item, weight) for item in used))

        if any(entry.entry_id in self.state(recall.scope).insights for entry in recall.items):
            self._log.write([(recall.scope, decide)])

    def _with_derived(self, records: Sequence[Record], ids: set[int]) -> set[int]:
        """Add the summaries and insights that were written from the turns of the entries."""
        return written_from(records, ids, {SESSION, INSIGHT})


def _summary_by_rules(said: Sequence[MemoryEntry]) -> str:
    """Return the last statements of a session with their speakers, or the end of what was said if there is none."""
    told = [f"{entry.speaker}: {statement}" for entry in said for statement in statements(entry.text)]
    return newest(told, LONGEST) or " ".join(lines_of(said))[-LONGEST:]
