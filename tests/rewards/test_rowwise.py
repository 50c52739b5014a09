"""A row that cannot be scored costs itself; a fault of the run stops it."""

from __future__ import annotations

import pytest

from memory_r1.errors import ConfigurationError, DataError
from rewards.rowwise import each_row


def test_a_row_that_fails_costs_itself_alone() -> None:
    def work(number: int) -> int:
        if number == 2:
            raise DataError("no date")
        return 2 * number

    assert each_row("answer_f1", work, [(1,), (2,), (3,)]) == ([2, None, 6], 1)


def test_what_no_row_can_help_is_not_taken_for_a_bad_row() -> None:
    def work(number: int) -> int:
        raise ConfigurationError("no adapter named 'answer' is loaded")

    with pytest.raises(ConfigurationError, match="no adapter named"):
        each_row("answer_f1", work, [(1,), (2,)])
