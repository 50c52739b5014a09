"""Credit for the Memory Manager beyond a single turn.

A tuple of Memory-R1 (section 3.1) credits a turn with the answers right after it. There are two other units:

- *session*: one completion holds the operations of a whole session (format in `memory/operations.py`), and the bank
  after the session is questioned. `session_rows` builds ordinary rows for it.
- *branch*: the current policy plays a dialogue greedily up to one random turn. The group branches there, from the same
  bank and prompt, and each branch is played greedily to the end of the session. The branch's completion is credited
  with the answers from that final bank. A group's rewards are thus Monte Carlo values of operations in one state, as in
  VinePPO for reasoning steps (Kazemnejad et al., 2024), with that state's baseline. `BranchRollout` is TRL's
  `rollout_func` for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from trl.models.utils import disable_gradient_checkpointing

from memory_r1.agents.memory_manager import ManageRequest, MemoryManager
from memory_r1.agents.prompts import session_prompt
from memory_r1.inference.language_model import Messages
from memory_r1.inference.local_model import LocalLanguageModel
from memory_r1.memory.bank import MemoryBank, entries_to_json
from memory_r1.memory.forms import FLAT, OperationForm
from memory_r1.memory.retriever import Retriever, reciprocal_rank_fusion
from memory_r1.systems.manager import ManagedMemory
from memory_r1.systems.player import Entries, Episode, play
from memory_r1.systems.state import ScopeState
from memory_r1.training.policy import POLICY
from memory_r1.training.rollouts import shared_prefix_rollout
from memory_r1.training.rows import Row, apply_completion, manager_columns, manager_rows, recalled_for
from memory_r1.types import PREVIOUS_TURNS, BranchPoint, ManagerTuple, MemoryEntry, SessionTuple

MAX_SESSION_MEMORIES = 60
"""Maximum number of memories in a session's prompt, as many as the paper recalls for a question."""

Sample = Callable[[list[Messages]], tuple[dict[str, Any], list[str]]]
"""Maps prompts to TRL's rollout output (lists of B) and the texts of the B completions."""


def session_rows(tuples: Sequence[SessionTuple], retriever: Retriever, recall_per_speaker: int) -> list[Row]:
    """Return a row per tuple: the columns of `manager_rows`, but `turn` is the JSON list of the session's turns.

    The prompt shows the memories that its turns' own prompts would show, fused by rank.
    """
    recalls = _recall_sessions(tuples, retriever, recall_per_speaker)
    return [
        {
            "prompt": session_prompt(item.session.turns, recalled),
            **manager_columns(item, item.session.turns, recalled),
        }
        for item, recalled in zip(tuples, recalls, strict=True)
    ]


def branch_rows(points: Sequence[BranchPoint]) -> list[Row]:
    """Return a row per dialogue with a point to branch at; `BranchRollout` replaces its prompt by the real one.

    The message names the dialogue, since a rollout receives no column but the prompts.
    """
    names = dict.fromkeys(point.dialogue.dialogue_id for point in points)
    return [
        {"prompt": [{"role": "user", "content": f"dialogue {name}", "dialogue": name}], "tuple_id": name}
        for name in names
    ]


class BranchRollout:
    """Plays dialogues with the current policy and branches each group at one of its dialogue's turns.

    Args:
        points: The points of all training dialogues at which groups may branch.
        retriever: Finds the memories for the manager's prompts.
        recall_per_speaker: Memories recalled per speaker, as in `MemoryManager`.
        retention_questions: Maximum number of questions about facts in the bank at the branch that also score its end.
        seed: Determines the turn, with step and dialogue, alike on all processes and for all of a group.
        form: How the manager writes operations.
    """

    def __init__(
        self,
        points: Sequence[BranchPoint],
        retriever: Retriever,
        *,
        recall_per_speaker: int,
        retention_questions: int,
        seed: int,
        form: OperationForm = FLAT,
    ) -> None:
        self.retriever = retriever
        self.recall_per_speaker = recall_per_speaker
        self.retention_questions = retention_questions
        self.seed = seed
        self.form = form
        self._points: dict[str, list[BranchPoint]] = {}
        for point in points:
            self._points.setdefault(point.dialogue.dialogue_id, []).append(point)

    def __call__(self, prompts: Sequence[Messages], trainer: Any) -> dict[str, Any]:
        """Run `roll_out` with the trainer's policy."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        local = LocalLanguageModel(model, trainer.processing_class, batch_size=len(prompts))
        manager = MemoryManager(
            local,
            self.retriever,
            adapter=POLICY,
            recall_per_speaker=self.recall_per_speaker,
            max_new_tokens=trainer.args.max_completion_length,
            form=self.form,
        )

        def sample(asked: list[Messages]) -> tuple[dict[str, Any], list[str]]:
            drawn = shared_prefix_rollout(asked, trainer)
            return drawn, trainer.processing_class.batch_decode(drawn["completion_ids"], skip_special_tokens=True)

        with disable_gradient_checkpointing(model, trainer.args.gradient_checkpointing_kwargs):
            return self.roll_out(prompts, trainer.state.global_step, manager, sample)

    def roll_out(
        self, prompts: Sequence[Messages], step: int, manager: MemoryManager, sample: Sample
    ) -> dict[str, Any]:
        """Play to the branch, sample there, and play the rest of the session.

        Args:
            prompts: B prompts of `branch_rows`, in any order.
            step: The training step, which determines the turns.
            manager: The policy, greedy.
            sample: The policy, sampling.

        Returns:
            The output of `sample` and, for the rewards, lists of B: the columns of `manager_rows` at the branch,
            `bank_at_end` (JSON) and `played_prompt`, the completed prompt.
        """
        points = [self.draw(str(prompt[-1]["dialogue"]), step) for prompt in prompts]
        rows = self._reach(points, step, manager)
        output, completions = sample([row["prompt"] for row in rows])
        ends = self._play_on(points, rows, completions, manager)
        columns = {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}
        asked = {"played_prompt": [row["prompt"] for row in rows]}
        return {**output, **columns, **asked, "bank_at_end": [entries_to_json(end) for end in ends]}

    def draw(self, dialogue_id: str, step: int) -> BranchPoint:
        """Draw the point at which a dialogue branches in a step."""
        return random.Random(f"{self.seed}:{step}:{dialogue_id}").choice(self._points[dialogue_id])

    def _reach(self, points: Sequence[BranchPoint], step: int, manager: MemoryManager) -> list[Row]:
        """Return the manager row at each point, over the policy's own bank; equal points share one row."""
        distinct = {_name(point): point for point in points}
        system = self._system(manager)
        play(system, [_before(point) for point in distinct.values()])
        tuples = [self._tuple(point, system.entries(name), step) for name, point in distinct.items()]
        rows = dict(
            zip(distinct, manager_rows(tuples, self.retriever, self.recall_per_speaker, self.form), strict=True)
        )
        return [rows[_name(point)] for point in points]

    def _tuple(self, point: BranchPoint, bank: Entries, step: int) -> ManagerTuple:
        """Build the tuple of a point over the bank played so far, which holds its retention questions' evidence."""
        session = point.dialogue.sessions[point.session]
        held = {turn_id for entry in bank for turn_id in entry.source_turn_ids}
        retained = [question for question in point.earlier if held.issuperset(question.evidence)]
        chosen = random.Random(f"{self.seed}:{step}:{_name(point)}").sample(
            range(len(retained)), min(self.retention_questions, len(retained))
        )
        return ManagerTuple(
            tuple_id=_name(point),
            dialogue_id=point.dialogue.dialogue_id,
            turn=session.turns[point.turn],
            previous=point.dialogue.previous_turns()[session.turns[point.turn].turn_id],
            speakers=point.dialogue.speakers,
            bank=bank,
            linked=point.linked,
            retention=tuple(retained[index] for index in sorted(chosen)),
            sources=tuple(turn for turn in point.dialogue.turns() if turn.turn_id in held),
        )

    def _play_on(
        self, points: Sequence[BranchPoint], rows: Sequence[Row], completions: Sequence[str], manager: MemoryManager
    ) -> list[Entries]:
        """Return each branch's bank at the end of its session; branches with equal banks are played once."""
        branches: list[tuple[str, Entries]] = []
        states: dict[tuple[str, Entries], tuple[BranchPoint, ScopeState]] = {}
        for point, row, completion in zip(points, rows, completions, strict=True):
            _, bank = apply_completion(completion, row["turn"], row["bank"], row["recalled_ids"], self.form.name)
            branch = (_name(point), bank.entries())
            branches.append(branch)
            states.setdefault(branch, (point, _state_behind(point, bank)))
        scopes = {branch: f"{number}" for number, branch in enumerate(states)}
        system = self._system(manager, {scopes[branch]: state for branch, (_, state) in states.items()})
        play(system, [_after(point, scopes[branch]) for branch, (point, _) in states.items()])
        return [system.entries(scopes[branch]) for branch in branches]

    def _system(self, manager: MemoryManager, states: dict[str, ScopeState] | None = None) -> ManagedMemory:
        return ManagedMemory(manager, self.retriever, recall_per_speaker=self.recall_per_speaker, states=states)


def _recall_sessions(
    tuples: Sequence[SessionTuple], retriever: Retriever, recall_per_speaker: int
) -> list[tuple[MemoryEntry, ...]]:
    """Return, for each tuple, the memories recalled for its turns, fused by rank."""
    asked = [
        ManageRequest(turn, (), MemoryBank(item.bank), item.speakers) for item in tuples for turn in item.session.turns
    ]
    recalls = iter(recalled_for(asked, retriever, recall_per_speaker))
    fused = []
    for item in tuples:
        rankings = [[entry.entry_id for entry in next(recalls)] for _ in item.session.turns]
        by_id = {entry.entry_id: entry for entry in item.bank}
        fused.append(tuple(by_id[number] for number in reciprocal_rank_fusion(rankings)[:MAX_SESSION_MEMORIES]))
    return fused


def _name(point: BranchPoint) -> str:
    return f"{point.dialogue.dialogue_id}/{point.dialogue.sessions[point.session].turns[point.turn].turn_id}"


def _before(point: BranchPoint) -> Episode:
    """Return the turns before a point."""
    earlier = sum(len(session.turns) for session in point.dialogue.sessions[: point.session])
    whole = Episode.of(point.dialogue)
    return replace(whole, scope=_name(point), turns=whole.turns[: earlier + point.turn])


def _after(point: BranchPoint, scope: str) -> Episode:
    """Return the rest of the session after a point's turn."""
    session = point.dialogue.sessions[point.session]
    return Episode(scope, point.dialogue.speakers, session.turns[point.turn + 1 :])


def _state_behind(point: BranchPoint, bank: MemoryBank) -> ScopeState:
    """Return the state from which to continue a branch: its bank and the latest turns."""
    said = point.dialogue.sessions[point.session].turns[: point.turn + 1]
    return ScopeState(bank, point.dialogue.speakers, said[-PREVIOUS_TURNS:], ended=False)
