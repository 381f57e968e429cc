"""A report as Markdown."""

from api.report_text import markdown

REPORT = {
    "kind": "benchmark",
    "name": "mine",
    "n": 12,
    "accuracy": {"value": 0.75, "ci95": [0.5, 0.9]},
    "per_category": {"algebra": {"value": 1.0, "n": 6}, "a|b": {"value": None, "n": 6}},
    "notes": ["one", "two"],
}


def test_a_report_is_readable_as_markdown() -> None:
    text = markdown(REPORT)
    assert text.startswith("# benchmark mine\n")
    assert "- n: 12" in text
    assert "- ci95: 0.5, 0.9" in text
    assert "| algebra | 1 | 6 |" in text
    assert "| a\\|b | – | 6 |" in text
