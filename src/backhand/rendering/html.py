"""A report as HTML, a page or what stands in a notebook: the culprits first, then code beside code.

Nothing is loaded and no script runs: `details` elements open on a click or a key. Every name, line and
message is escaped by the templates.
"""

from dataclasses import replace
from functools import cache
from secrets import token_hex

import jinja2

from backhand.checking.meanings import VERDICTS
from backhand.checking.report import Report
from backhand.rendering.entries import CAPTIONS, entries_of
from backhand.rendering.harmless import harmless
from backhand.rendering.terminal import COLUMNS, facts, folded, footnotes, headline, misnamed, place, state


def as_html(report: Report) -> str:
    """Return the report as a page of its own, light or dark as the reader's system is."""
    return _sheet("sheet", report, "at")


def as_inline(report: Report) -> str:
    """Return the sheet as what a notebook shows: light or dark as the page around it is."""
    return _sheet("inline", report, f"backhand-{token_hex(4)}")


def _sheet(template: str, report: Report, prefix: str) -> str:
    """Return the sheet; `prefix` sets its places apart from those of other sheets on one page."""
    report = harmless(report)
    verdicts = [row.verdict for row in report.rows]
    counts = [(word, verdicts.count(word), m.meaning) for word, m in VERDICTS.items() if word in verdicts]
    entries, lanes, rest = entries_of(report)
    return _template(template).render(
        report=report,
        entries=entries,
        lanes=lanes,
        rest=rest,
        counts=counts,
        verdicts=VERDICTS,
        captions=CAPTIONS,
        state=state(report),
        misnamed=misnamed,
        place=place,
        prefix=prefix,
        places={name: i for i, entry in enumerate(entries) for name in entry.names},
    )


def as_fragment(report: Report) -> str:
    """Return culprits and table as what follows a notebook's cell: in the notebook's own letters."""
    report = harmless(replace(report, sheet=None))
    return _template("verdicts").render(
        report=report,
        headline=headline,
        footnotes=footnotes,
        facts=facts,
        folded=folded,
        place=place,
        columns=COLUMNS,
        verdicts=VERDICTS,
    )


@cache
def _template(name: str) -> jinja2.Template:
    loader = jinja2.PackageLoader("backhand.rendering", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(f"{name}.html.j2")
