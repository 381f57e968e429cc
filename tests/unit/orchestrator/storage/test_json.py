"""JSON as PostgreSQL takes it."""

import json
from typing import Any

import pytest

from orchestrator.storage import database


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("one\0two", "onetwo"),
        (r"C ends a string with \u0000", r"C ends a string with \u0000"),
        ("a backslash \\\0 before it", "a backslash \\ before it"),
        ("\\\0u0000", r"\u0000"),
        ({"a\0b": [("\0", {"c": "\0d"})]}, {"ab": [["", {"c": "d"}]]}),
    ],
)
def test_nul_is_taken_out_and_a_text_about_it_is_not(value: Any, kept: Any) -> None:
    assert json.loads(database.dump_json(value)) == kept
