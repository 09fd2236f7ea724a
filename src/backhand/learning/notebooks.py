"""The exercises as notebooks: a cell for each gradient, judged by the live extension as soon as it runs."""

import ast
import json
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backhand.learning.blanking import Textbook, asked, imports, textbook
from backhand.learning.course import Exercise, course
from backhand.learning.folder import write_missing

SEED = 42


def write_notebooks(folder: str | Path) -> tuple[Path, ...]:
    """Write the exercises as notebooks that a folder lacks, and return their paths.

    Raises:
        LearnError: the folder cannot be written.

    >>> import tempfile
    >>> write_notebooks(tempfile.mkdtemp())[0].name
    '01_product.ipynb'
    """
    folder = Path(folder)
    return write_missing(
        {folder / exercise.file_name.replace(".py", ".ipynb"): as_notebook(exercise) for exercise in course()}
    )


def as_notebook(exercise: Exercise) -> str:
    """Return an exercise as a notebook, in the JSON of Jupyter's format 4.5."""
    cells = [_cell("markdown", f"# {exercise.number}. {exercise.title}\n\n{_markdown(exercise.story)}")]
    cells += [_cell("code", text) for text in given_cells(exercise)]
    cells += [_cell("code", text) for text in blank_cells(exercise)]
    cells += [_cell("markdown", "The whole sheet:"), _cell("code", "%backhand")]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def blank_cells(exercise: Exercise) -> list[str]:
    """Return the cells to fill in: one a gradient, and one for all that a loop makes."""
    lines = [f"{name} = ...  # {shape}" for name, shape in asked(exercise).items()]
    loop = any(isinstance(s, ast.For) for s in textbook(exercise).function("backward").body)
    return ["\n".join([*lines, "# and a loop over the times, the last one first"])] if loop else lines


def _cell(kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def _markdown(story: str) -> str:
    """Return a story with its formulas, which are indented, as they are."""
    return story.strip().replace("*", "\\*") if "    " not in story else story.strip()


def given_cells(exercise: Exercise) -> list[str]:
    """Return the cells that come before the gradients: imports, inputs, forward and upstream gradient."""
    book = textbook(exercise)
    names = list(exercise.solution.inputs(torch.Generator().manual_seed(SEED)))
    drawn = exercise.solution.inputs(torch.Generator().manual_seed(SEED))
    leaves = [n for n, value in drawn.items() if isinstance(value, Tensor) and value.is_floating_point()]
    draws = textwrap.dedent(_body(book, "inputs"))
    values = draws.replace("return {", "drawn = {")
    inputs = (
        f"generator = torch.Generator().manual_seed({SEED})\n{values}\n"
        f"{', '.join(names)}{',' if len(names) == 1 else ''} = drawn.values()\n"
        f"for tensor in ({', '.join(leaves)},):\n    tensor.requires_grad_()"
    )
    forward = "\n".join([*_defaults(book), _body(book, "forward")])
    needed = imports(book, f"{values}\n{forward}")
    cells = ["\n".join(["%load_ext backhand", *needed]), inputs]
    out = getattr(exercise.solution, "out", None)
    if out is None:
        return [*cells, forward]
    end = f"upstream = torch.randn({out}.shape, generator=generator)\nloss = ({out} * upstream).sum()"
    return [*cells, f"{forward}\n{end}", f"d{out} = upstream  # what arrives from above, given"]


def _defaults(book: Textbook) -> list[str]:
    """Return the forward's default values as assignments."""
    arguments = book.function("forward").args
    count = len(arguments.defaults)
    pairs = zip(arguments.args[len(arguments.args) - count :], arguments.defaults, strict=True)
    return [f"{argument.arg} = {ast.unparse(value)}" for argument, value in pairs]


def _body(book: Textbook, name: str) -> str:
    """Return the statements of a function without its docstring; a `return` of names by hand goes too."""
    body = book.function(name).body[1:]
    if name == "forward":
        body = body[:-1]
    text = "\n".join(book.lines[body[0].lineno - 1 : body[-1].end_lineno])
    return textwrap.dedent(text)
