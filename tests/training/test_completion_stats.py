"""Statistics of completions."""

from __future__ import annotations

import pytest

from memory_r1.training.completion_stats import DESCRIBE, describe_answers, describe_operations


def test_shares_are_of_accepted_operations_and_failures_of_completions() -> None:
    completions = [
        '[{"op": "ADD", "text": "a"}, {"op": "ADD", "text": "b"}, {"op": "DELETE", "id": 1}]',
        '[{"op": "UPDATE", "id": 2, "text": "c"}, {"op": "DELETE", "id": 9}]',  # 9 was not shown
        "I shall remember.",
        "",
        "[]",
    ]
    rows = [{"recalled_ids": shown} for shown in ([10, 11], [10, 11], [], [], [])]
    assert describe_operations(completions, rows) == {
        "share_ADD": 0.5,
        "share_UPDATE": 0.25,
        "share_DELETE": 0.25,
        "share_NOOP": 0.0,
        "parse_failures": 0.4,
        "refused": 0.2,
        "unknown_ids": 0.2,
    }


def test_answers_are_described_by_form_refusals_and_distillation() -> None:
    completions = ["Memories: 1, 2\n**Answer:** Rome", "Memories: 7\n**Answer:** Unknown", "Rome", ""]
    row = {"numbered": [10, 11], "texts": ["Ann lives in Rome", "Ann has a dog"], "answer_style": "ids"}
    assert describe_answers(completions, [row] * 4) == {"marked": 0.5, "unknown": 0.25, "distilled": 0.5}
    quoting = {**row, "answer_style": "quotes"}
    assert describe_answers(["Memories:\nann has a dog\n**Answer:** dog"], [quoting])["distilled"] == 1.0


@pytest.mark.parametrize("agent", ["manager", "answer"])
def test_no_completion_is_described_by_zeros(agent: str) -> None:
    assert set(DESCRIBE[agent]([], []).values()) == {0.0}
