"""Check drafted questions. Each check that a draft fails leaves a flag, and a flagged draft is rejected.

The checks of words come first; only drafts that pass them all are compared with each other, and only those that are
no duplicates are put to the Answer Agent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from memory_r1.agents.answer_agent import AnswerAgent, AnswerRequest
from memory_r1.drafting.drafts import Draft
from memory_r1.errors import MemoryR1Error, PromptTooLongError
from memory_r1.memory.embedder import Embedder
from memory_r1.metrics import f1_squad, normalize_answer
from memory_r1.types import Answer, Dialogue, MemoryEntry, Recall, Turn

NO_EVIDENCE = "no evidence"
LONG_ANSWER = "long answer"
NOT_SAID = "answer is not in the words of its evidence"
TOLD = "question tells the answer"
NOBODY = "question names no speaker"
DUPLICATE = "asked before"
OUTDATED = "answered otherwise later"
UNANSWERED = "not answered from its evidence"
GUESSED = "answered without evidence"

LONGEST_ANSWER = 8
"""Words of an answer."""
_WORD_BREAKS = re.compile(r"[-\u2013\u2014/]")


class Checker:
    """Flags what is wrong with the drafts of a dialogue.

    Args:
        embedder: Tells which questions mean the same.
        answerer: Answers each question from its evidence and from nothing; None skips that check.
        same: Cosine from which two questions about the same speakers are one.
        answered: Token F1 (SQuAD's) from which a question counts as answered.
    """

    def __init__(
        self, embedder: Embedder, answerer: AnswerAgent | None = None, *, same: float = 0.95, answered: float = 0.5
    ) -> None:
        self.embedder = embedder
        self.answerer = answerer
        self.same = same
        self.answered = answered

    def check(self, dialogue: Dialogue, drafts: Sequence[Draft]) -> list[Draft]:
        """Return the drafts with their flags, in order.

        Raises:
            EndpointError: The Answer Agent is behind a server that gives no reply.
        """
        turns = {turn.turn_id: turn for turn in dialogue.turns()}
        checked = [replace(draft, flags=tuple(_wrong_words(draft, turns, dialogue.speakers))) for draft in drafts]
        self._compare(checked, dialogue)
        self._answer(checked, turns)
        return checked

    def _compare(self, drafts: list[Draft], dialogue: Dialogue) -> None:
        """Flag a repeated question and, where its answer has changed, the earlier one."""
        places = [place for place, draft in enumerate(drafts) if not draft.flags]
        vectors = dict(zip(places, self.embedder.embed([drafts[place].question for place in places]), strict=True))
        for first, second in combinations(places, 2):
            earlier, later = drafts[first], drafts[second]
            about = [_named(draft.question, dialogue.speakers) for draft in (earlier, later)]
            if earlier.flags or later.flags or about[0] != about[1] or vectors[first] @ vectors[second] < self.same:
                continue
            if normalize_answer(earlier.answer) == normalize_answer(later.answer):
                drafts[second] = replace(later, flags=(DUPLICATE,))
            else:
                drafts[first] = replace(earlier, flags=(OUTDATED,))

    def _answer(self, drafts: list[Draft], turns: Mapping[str, Turn]) -> None:
        """Flag what the Answer Agent does not answer from the evidence, or answers without it."""
        places = [place for place, draft in enumerate(drafts) if not draft.flags]
        if self.answerer is None or not places:
            return
        asked = [drafts[place] for place in places]
        requests = [AnswerRequest(draft.question, Recall(_entries(draft, turns))) for draft in asked]
        requests += [AnswerRequest(draft.question, Recall(())) for draft in asked]
        answers = iter(self.answerer.try_answer(requests))
        right = [[self._is_right(next(answers), draft) for draft in asked] for _ in range(2)]
        for place, informed, guessed in zip(places, *right, strict=True):
            flags = [] if informed else [UNANSWERED]
            flags += [GUESSED] if guessed else []
            drafts[place] = replace(drafts[place], flags=tuple(flags))

    def _is_right(self, answer: Answer | MemoryR1Error, draft: Draft) -> bool:
        if isinstance(answer, PromptTooLongError):
            return False
        if isinstance(answer, MemoryR1Error):
            raise answer
        return f1_squad(answer.text, draft.answer) >= self.answered


def said_in(answer: str, evidence: Sequence[Turn]) -> bool:
    """Return whether every word of an answer is said in the evidence or is the name of who says it."""
    said = set().union(*(_words(f"{turn.speaker} {turn.text}") for turn in evidence))
    return _words(answer) <= said


def _wrong_words(draft: Draft, turns: Mapping[str, Turn], speakers: Sequence[str]) -> Iterator[str]:
    if not draft.evidence:
        yield NO_EVIDENCE
    elif not said_in(draft.answer, [turns[turn_id] for turn_id in draft.evidence]):
        yield NOT_SAID
    if len(draft.answer.split()) > LONGEST_ANSWER:
        yield LONG_ANSWER
    if _words(draft.answer) <= _words(draft.question):
        yield TOLD
    if not _named(draft.question, speakers):
        yield NOBODY


def _named(question: str, speakers: Sequence[str]) -> frozenset[str]:
    """Return the speakers of whose names a question holds a word."""
    words = _words(re.sub(r"['\u2019]s\b", "", question))
    return frozenset(speaker for speaker in speakers if _words(speaker) & words)


def _entries(draft: Draft, turns: Mapping[str, Turn]) -> tuple[MemoryEntry, ...]:
    evidence = [turns[turn_id] for turn_id in draft.evidence]
    return tuple(
        MemoryEntry(number, turn.text, turn.speaker, turn.timestamp, (turn.turn_id,))
        for number, turn in enumerate(evidence, start=1)
    )


def _words(text: str) -> set[str]:
    return set(normalize_answer(_WORD_BREAKS.sub(" ", text)).split())
