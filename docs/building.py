"""What mkdocs needs for the site: what pages show of files, and formulas as MathML, which needs no script.

The page of mistakes shows every file of docs/mistakes, named by the kind of mistake that it makes, and what
the check says of it at the moment of building; the page of derivations the backwards of the textbook as they
are; the API the examples of docstrings as code.
"""

import ast
import html
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from latex2mathml.converter import convert

from backhand import KINDS, Report, check_file

MISTAKES = Path(__file__).parent / "mistakes"
PLACE = "<!-- the mistakes -->"
EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\n).+)*", re.MULTILINE)  # up to an empty line
BACKWARD = re.compile(r"<!-- backward of (\w+) -->")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


class Examples(Extension):
    """Show the examples of docstrings, which stand without a heading, as code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Put a fence around each example of an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = EXAMPLE.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the mistakes and the backwards in their places."""
    if PLACE in markdown:
        markdown = markdown.replace(PLACE, "\n".join(map(section, KINDS)))
    return BACKWARD.sub(lambda found: backward(found[1]), markdown)


def on_page_content(content: str, **_: Any) -> str:
    r"""Turn the formulas of a page into MathML.

    >>> on_page_content(r'<span class="arithmatex">\\(x\\)</span>')[:5]
    '<math'
    """

    def mathml(found: re.Match[str]) -> str:
        return convert(html.unescape(found[2]), display="inline" if found[1] == "span" else "block")

    return FORMULA.sub(mathml, content)


def backward(name: str) -> str:
    """Return the backward of a pass of the textbook, without its docstring, as a block of code."""
    code = inspect.getsource(importlib.import_module(f"backhand.passes.{name}").backward)
    code = re.sub(r'    """.*?"""\n', "", code, count=1, flags=re.DOTALL)
    return f'```python title="backhand.passes.{name}"\n{code}```'


def section(kind: str) -> str:
    """Return what the page says of one kind: a wrong pass, its lines at fault marked, and the verdict."""
    file = MISTAKES / f"{kind}.py"
    text = file.read_text(encoding="utf-8")
    story = ast.get_docstring(ast.parse(text))
    code = text.split("import torch\n", 1)[1].split("\n\n\ndef inputs")[0].strip("\n")
    skipped = text[: text.index(code)].count("\n")
    report = check_file(file)
    marked = " ".join(str(number - skipped) for number in lines_at_fault(report))
    fence = f'python hl_lines="{marked}"' if marked else "python"
    said = "\n".join(f'!!! failure ""\n    {message}\n' for message in told(report))
    return (
        f"## `{kind}`\n\n{KINDS[kind].meaning[:1].upper()}{KINDS[kind].meaning[1:]}. {story}\n\n"
        f"```{fence}\n{code}\n```\n\n{said}\n{KINDS[kind].hint}\n"
    )


def lines_at_fault(report: Report) -> list[int]:
    """Return the numbers of the lines that the culprits of a report show."""
    return [line.number for row in report.culprits for line in row.lines]


def told(report: Report) -> list[str]:
    """Return the message of each mistake of a report."""
    found = [row.mistake for row in report.culprits] + list(report.stress)
    return [mistake.message for mistake in found if mistake is not None]
