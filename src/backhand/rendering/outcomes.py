"""What became of one check or of many, on standard output; it leaves with their exit status."""

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from backhand.checking.report import Report, write_page
from backhand.checking.sources.batches import Checked
from backhand.errors import CheckError
from backhand.rendering.output import leave, show_json
from backhand.rendering.terminal import as_text, line_of, summary, unfinished


def show_checked(checked: Checked, html: Path | None, json: bool) -> None:
    """Show what became of the only file that was checked, and leave with its status."""
    if checked.report is None:
        raise CheckError(checked.problem)
    show_report(checked.report, checked.page, html, json)


def show_report(report: Report, page: str, html: Path | None, json: bool) -> None:
    """Show a report, write its page if a file is named for it, and leave with its status."""
    if html is not None:
        write_page(html, page)
    if json:
        show_json(report.to_dict())
    else:
        print(as_text(report))
    sys.stdout.flush()
    if not report.ok:
        sys.exit(1)
    if report.unfinished:
        leave(unfinished(report), 2)


def show_several(checked: Iterable[Checked], json: bool) -> None:
    """Show a line for each as it comes, then the reports of those that are wrong, and leave with a status."""
    console, found = Console(), []
    for one in checked:
        found.append(one)
        if not json:
            console.print(line_of(one), soft_wrap=True)
    states = Counter(one.state for one in found)
    if json:
        show_json([one.to_dict() for one in found])
    else:
        for one in found:
            if one.report is not None and not one.report.ok:
                print("", as_text(replace(one.report, title=one.title)), sep="\n")
        print("", summary(states), sep="\n")
    sys.stdout.flush()
    if any(one.report is not None and not one.report.ok for one in found):
        sys.exit(1)
    if states["not judged"]:
        sys.exit(2)
