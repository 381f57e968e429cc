"""Two benchmarks beside each other, as a page."""

from collections.abc import Mapping
from typing import Any

from api import page as html
from api.page import Card, Row

Json = Mapping[str, Any]


def page(compared: Json) -> str:
    """The page of a comparison."""
    first, second, test = compared["first"], compared["second"], compared["mcnemar"]
    names = [f"{run['name'] or 'benchmark'} ({run['run'][-6:]})" for run in (first, second)]
    lines = compared["lines"]
    categories = compared["per_category"].items()
    return html.document(
        f"{names[0]} and {names[1]}",
        f"{html.figure(lines['compared'])} questions that both answered; "
        f"{html.figure(lines['only_in_first'])} only the first, "
        f"{html.figure(lines['only_in_second'])} only the second.",
        html.cards(
            [
                Card(
                    name="Difference, second minus first",
                    figure=f"{100 * compared['difference']['value']:+.1f} pt".replace("-", "−"),
                    note=html.interval(compared["difference"], is_difference=True),
                ),
                Card(
                    name="McNemar's test",
                    figure=f"p = {test['p_value']:.3g}",
                    note=f"the second: {html.verdict(compared['difference'])}",
                ),
                Card(
                    name="Where they disagree",
                    figure=f"{test['only_second_right']} : {test['only_first_right']}",
                    note="lines only the second had right, only the first",
                ),
            ]
        ),
        html.section(
            "Accuracy",
            html.chart(
                "On the same lines",
                "run",
                [
                    Row(name=names[0], estimate=compared["accuracy"]["first"]),
                    Row(name=names[1], estimate=compared["accuracy"]["second"], is_own=True),
                ],
            ),
        ),
        html.section(
            "By category",
            html.chart(
                "The second's accuracy minus the first's",
                "category",
                [
                    Row(
                        name=name,
                        estimate=each["difference"],
                        note=f"{html.share(each['accuracy']['first'])} → {html.share(each['accuracy']['second'])}",
                    )
                    for name, each in categories
                ],
                is_difference=True,
            ),
            note="Few lines a category: an interval that holds 0 tells nothing apart. pt: percentage points.",
        ),
        html.section(
            "What they cost",
            html.table(
                "Each run as a whole",
                ("", *names),
                [(what, first[what], second[what]) for what in ("seconds", "calls", "tokens", "loads")],
            ),
        ),
        html.section(
            "What was pinned",
            html.table(
                "Settings",
                ("", *names),
                [(name, first["settings"][name], second["settings"][name]) for name in first["settings"]],
            ),
            html.details(f"Versions of {names[0]}", first["versions"]),
            html.details(f"Versions of {names[1]}", second["versions"]),
        ),
    )
