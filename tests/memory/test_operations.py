"""Completions that parse, and the typed failures of those that do not."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memory_r1.memory.forms import MAX_OPERATIONS
from memory_r1.memory.operations import (
    ParseFailureReason,
    RefusalReason,
    check_completion,
    operation_counts,
    render_operations,
)
from memory_r1.types import Operation, OperationKind

ADD, UPDATE, DELETE, NOOP, *_ = OperationKind
RECALLED = (17, 4, 90)  # Prompt numbers 1, 2, 3.

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).map(str.strip)
some_text = texts.filter(bool)


@st.composite
def operation_lists(draw: st.DrawFn) -> tuple[list[Operation], list[int]]:
    """Draw valid operations, with the recalled ids that they refer to."""
    recalled = draw(st.lists(st.integers(1, 10**6), unique=True, max_size=6))
    edited = draw(st.permutations(recalled))[: draw(st.integers(0, len(recalled)))]
    operations = [
        Operation(UPDATE, draw(some_text), entry_id) if draw(st.booleans()) else Operation(DELETE, None, entry_id)
        for entry_id in edited
    ]
    free = st.one_of(some_text.map(lambda text: Operation(ADD, text)), st.just(Operation(NOOP)))
    operations += draw(st.lists(free, max_size=MAX_OPERATIONS - len(operations)))
    return draw(st.permutations(operations)), recalled


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["op", "id", "text", "x"]), inner),
    max_leaves=12,
)
near_misses = st.lists(
    st.fixed_dictionaries(
        {"op": st.sampled_from(["ADD", "UPDATE", "DELETE", "NOOP", "add", ""]) | json_values},
        optional={"id": st.integers(-2, 5) | json_values, "text": st.text() | json_values},
    ),
    max_size=12,
)


def test_the_documented_example_is_read_with_bank_ids() -> None:
    completion = """
      [{"op": "ADD", "text": "Ann has a dog."}, {"op": "UPDATE", "id": 3, "text": " Ben moved. "},
       {"op": "DELETE", "id": 1}, {"op": "NOOP"}]
    """
    checked = check_completion(completion, RECALLED)
    assert checked.failure is None
    assert checked.accepted == (
        Operation(ADD, "Ann has a dog."),
        Operation(UPDATE, "Ben moved.", 90),
        Operation(DELETE, None, 17),
        Operation(NOOP),
    )


def test_operations_are_rendered_in_the_documented_form() -> None:
    operations = [Operation(ADD, "Café"), Operation(UPDATE, "b", 90), Operation(DELETE, None, 17), Operation(NOOP)]
    assert render_operations(operations, RECALLED) == (
        '[{"op": "ADD", "text": "Café"}, {"op": "UPDATE", "id": 3, "text": "b"}, '
        '{"op": "DELETE", "id": 1}, {"op": "NOOP"}]'
    )


@settings(deadline=None)
@given(operation_lists())
def test_what_is_rendered_is_read_back(written: tuple[list[Operation], list[int]]) -> None:
    operations, recalled = written
    checked = check_completion(render_operations(operations, recalled), recalled)
    assert checked.accepted == tuple(operations)
    assert all(item.accepted for item in checked.operations)


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        ('{"op": "MERGE", "id": 1}', RefusalReason.UNKNOWN_OPERATION),
        ('{"op": "add", "text": "x"}', RefusalReason.UNKNOWN_OPERATION),
        ('{"op": "DELETE", "id": 4}', RefusalReason.UNKNOWN_ID),
        ('{"op": "DELETE", "id": 0}', RefusalReason.UNKNOWN_ID),
        ('{"op": "DELETE", "id": -1}', RefusalReason.UNKNOWN_ID),
        ('{"op": "DELETE", "id": 17}', RefusalReason.UNKNOWN_ID),  # A bank id is not a prompt number.
        ('{"op": "UPDATE", "id": 9, "text": ""}', RefusalReason.UNKNOWN_ID),
        ('{"op": "ADD", "text": ""}', RefusalReason.EMPTY_TEXT),
        ('{"op": "UPDATE", "id": 1, "text": " \\n"}', RefusalReason.EMPTY_TEXT),
        ('{"op": "ADD"}', RefusalReason.MALFORMED),
        ('{"op": "ADD", "text": null}', RefusalReason.MALFORMED),
        ('{"op": "ADD", "text": "x", "id": 1}', RefusalReason.MALFORMED),
        ('{"op": "UPDATE", "text": "x"}', RefusalReason.MALFORMED),
        ('{"op": "DELETE", "id": true}', RefusalReason.MALFORMED),
        ('{"op": "DELETE", "id": 1.0}', RefusalReason.MALFORMED),
        ('{"op": "DELETE", "id": "1"}', RefusalReason.MALFORMED),
        ('{"op": "NOOP", "text": "x"}', RefusalReason.MALFORMED),
        ('{"op": "DELETE", "id": 1, "id": 2}', RefusalReason.MALFORMED),
        ('{"op": ["ADD"], "text": "x"}', RefusalReason.MALFORMED),
        ('{"text": "x"}', RefusalReason.MALFORMED),
        ('"NOOP"', RefusalReason.MALFORMED),
        ("[]", RefusalReason.MALFORMED),
    ],
)
def test_a_bad_operation_is_refused_and_the_good_ones_stand(element: str, reason: RefusalReason) -> None:
    checked = check_completion(f'[{element}, {{"op": "ADD", "text": "good"}}]', RECALLED)
    assert [item.refusal for item in checked.operations] == [reason, None]
    assert checked.accepted == (Operation(ADD, "good"),)


def test_only_the_first_accepted_operation_on_an_entry_stands() -> None:
    completion = json.dumps(
        [
            {"op": "UPDATE", "id": 2, "text": ""},  # Refused, so the entry is still free.
            {"op": "UPDATE", "id": 2, "text": "new"},
            {"op": "DELETE", "id": 2},
        ]
    )
    checked = check_completion(completion, RECALLED)
    refusals = [item.refusal for item in checked.operations]
    assert refusals == [RefusalReason.EMPTY_TEXT, None, RefusalReason.SECOND_OPERATION]
    assert checked.accepted == (Operation(UPDATE, "new", 4),)


def test_operations_past_the_limit_are_refused_and_refused_ones_count_towards_it() -> None:
    elements = ['"junk"'] + ['{"op": "NOOP"}'] * MAX_OPERATIONS
    checked = check_completion(f"[{', '.join(elements)}]", RECALLED)
    assert len(checked.accepted) == MAX_OPERATIONS - 1
    assert checked.operations[-1].refusal is RefusalReason.OVER_LIMIT


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", ParseFailureReason.EMPTY),
        (" \n\t", ParseFailureReason.EMPTY),
        ("NOOP", ParseFailureReason.NOT_JSON),
        ('[{"op": "NOOP"}', ParseFailureReason.NOT_JSON),
        ('[{"op": "NOOP"}] done', ParseFailureReason.NOT_JSON),
        ('```json\n[{"op": "NOOP"}]\n```', ParseFailureReason.NOT_JSON),
        ("[NaN]", ParseFailureReason.NOT_JSON),
        ("[1e999]", ParseFailureReason.NOT_JSON),
        ("[" * 100_000, ParseFailureReason.NOT_JSON),
        ("[" * 200 + "]" * 200, ParseFailureReason.NOT_JSON),
        ('{"a":' * 100_000, ParseFailureReason.NOT_JSON),
        ('[{"op": "DELETE", "id": ' + "9" * 5000 + "}]", ParseFailureReason.NOT_JSON),
        ('{"op": "NOOP"}', ParseFailureReason.NOT_AN_ARRAY),
        ("3", ParseFailureReason.NOT_AN_ARRAY),
        ("null", ParseFailureReason.NOT_AN_ARRAY),
    ],
)
def test_what_is_no_array_is_a_typed_failure(completion: str, reason: ParseFailureReason) -> None:
    checked = check_completion(completion, RECALLED)
    assert checked.failure is not None
    assert checked.failure.reason is reason
    assert checked.failure.detail
    assert "\n" not in checked.failure.detail
    assert checked.operations == ()


def test_an_empty_array_is_readable_and_does_nothing() -> None:
    checked = check_completion("[]", RECALLED)
    assert checked.failure is None
    assert checked.operations == ()


def test_lone_surrogates_and_nul_become_replacement_characters() -> None:
    checked = check_completion(r'[{"op": "ADD", "text": "a\ud800b\u0000c"}, {"op": "\udc00"}]', ())
    assert checked.accepted == (Operation(ADD, "a\ufffdb\ufffdc"),)
    assert checked.operations[1].raw == {"op": "\ufffd"}


@settings(deadline=None)
@given(st.text() | json_values.map(json.dumps) | near_misses.map(json.dumps), st.lists(st.integers(1, 50), max_size=5))
@example("[" * 100_000, [])
def test_nothing_a_completion_holds_ever_raises(completion: str, recalled: list[int]) -> None:
    checked = check_completion(completion, recalled)
    assert checked.failure is None or checked.operations == ()
    accepted = checked.accepted
    assert len(accepted) <= MAX_OPERATIONS
    edited = [operation.entry_id for operation in accepted if operation.entry_id is not None]
    assert set(edited) <= set(recalled)
    assert len(set(edited)) == len(edited)
    for item in checked.operations:
        assert (item.operation is None) == (item.refusal is not None)
        json.dumps(item.raw, ensure_ascii=False, allow_nan=False).encode()  # Its log record can be serialised.


@pytest.mark.parametrize(
    "operation",
    [
        Operation(DELETE, None, 5),
        Operation(UPDATE, "x", None),
        Operation(UPDATE, None, 17),
        Operation(ADD, " "),
        Operation(ADD),
    ],
)
def test_what_could_not_be_read_back_is_not_rendered(operation: Operation) -> None:
    with pytest.raises(ValueError, match=operation.kind.value):
        render_operations([operation], RECALLED)


def test_counts_over_completions() -> None:
    checked = [
        check_completion(
            '[{"op": "ADD", "text": "a"}, {"op": "DELETE", "id": 9}, {"op": "ADD", "text": ""}]', RECALLED
        ),
        check_completion('[{"op": "UPDATE", "id": 1, "text": "a"}, {"op": "DELETE", "id": 2}]', RECALLED),
        check_completion('[{"op": "NOOP"}]', RECALLED),
        check_completion("no idea", RECALLED),
    ]
    assert operation_counts(checked) == {
        "ADD": 1,
        "UPDATE": 1,
        "DELETE": 1,
        "NOOP": 1,
        "parse_failures": 1,
        "unknown_ids": 1,
        "refused": 2,
    }


SESSION = [
    ({"op": "ADD", "text": "a"}, 0, None),  # no turn yet: the first one
    ({"op": "ADD", "turn": 2, "text": "b"}, 1, None),
    ({"op": "UPDATE", "id": 1, "text": "c"}, 1, None),  # as before it
    ({"op": "UPDATE", "turn": 3, "id": 1, "text": "d"}, 2, None),  # another turn may revise the same entry
    ({"op": "DELETE", "id": 1}, 2, RefusalReason.SECOND_OPERATION),  # but not the same one twice
    ({"op": "DELETE", "turn": 1, "id": 1}, 0, None),
    ({"op": "UPDATE", "turn": 3, "id": 1, "text": "e"}, 2, RefusalReason.SECOND_OPERATION),
    ({"op": "UPDATE", "turn": 2, "id": 2, "text": "f"}, 1, None),
    ({"op": "DELETE", "turn": 4, "id": 2}, 1, RefusalReason.UNKNOWN_TURN),  # there are three; the next one is on turn 2
    ({"op": "NOOP", "turn": 0}, 1, RefusalReason.UNKNOWN_TURN),
    ({"op": "NOOP", "turn": "2"}, 1, RefusalReason.UNKNOWN_TURN),
    ({"op": "NOOP", "turn": True}, 1, RefusalReason.UNKNOWN_TURN),
    ({"op": "NOOP"}, 1, None),
    ({"op": "NOOP", "turn": 2, "text": "x"}, 1, RefusalReason.MALFORMED),
]


def test_a_sessions_operations_stand_for_their_turns() -> None:
    checked = check_completion(json.dumps([raw for raw, _, _ in SESSION]), RECALLED, turns=3)
    assert [(item.raw, item.turn, item.refusal) for item in checked.operations] == SESSION


def test_an_entry_deleted_on_one_turn_of_a_session_is_gone_on_all_others() -> None:
    completion = '[{"op": "DELETE", "turn": 2, "id": 3}, {"op": "UPDATE", "turn": 3, "id": 3, "text": "x"}]'
    checked = check_completion(completion, RECALLED, turns=3)
    assert [item.refusal for item in checked.operations] == [None, RefusalReason.SECOND_OPERATION]


def test_the_limit_on_operations_holds_for_each_turn_of_a_session() -> None:
    operations = [{"op": "NOOP", "turn": turn} for turn in (1, 2) for _ in range(MAX_OPERATIONS + 1)]
    checked = check_completion(json.dumps(operations), RECALLED, turns=2)
    within = [None] * MAX_OPERATIONS
    assert [item.refusal for item in checked.operations] == [*within, RefusalReason.OVER_LIMIT] * 2


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("", ParseFailureReason.EMPTY),
        ("Turn 1: NOOP", ParseFailureReason.NOT_JSON),
        ('{"turn": 1, "op": "NOOP"}', ParseFailureReason.NOT_AN_ARRAY),
        ('[{"op": "NOOP", "turn": 1}', ParseFailureReason.NOT_JSON),
    ],
)
def test_a_sessions_completion_that_is_no_array_is_a_typed_failure(completion: str, reason: ParseFailureReason) -> None:
    checked = check_completion(completion, RECALLED, turns=3)
    assert checked.failure is not None
    assert checked.failure.reason is reason


def test_a_single_turns_operation_names_no_turn() -> None:
    checked = check_completion('[{"op": "NOOP", "turn": 1}]', RECALLED)
    assert [item.refusal for item in checked.operations] == [RefusalReason.MALFORMED]
