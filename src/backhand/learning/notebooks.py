"""The exercises as notebooks: a cell for each gradient, judged by the live extension as soon as it runs."""

import ast
import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backhand.learning.blanking import Textbook, asked, blank, imports, textbook
from backhand.learning.course import Exercise, course
from backhand.learning.folder import write_missing

SEED = 42
# The functions of an exercise, the one to be written last.
PARTS = ("inputs", "forward", "backward")


def write_notebooks(folder: str | Path, *, numpy: bool = False) -> tuple[Path, ...]:
    """Write the exercises as notebooks that a folder lacks, and return their paths.

    Args:
        folder: where they are to be.
        numpy: those of the course over NumPy.

    Raises:
        LearnError: the folder cannot be written.

    >>> import tempfile
    >>> write_notebooks(tempfile.mkdtemp())[0].name
    '01_product.ipynb'
    """
    folder = Path(folder)
    return write_missing(
        {folder / e.file_name.replace(".py", ".ipynb"): as_notebook(e) for e in course(numpy=numpy)}
    )


def as_notebook(exercise: Exercise) -> str:
    """Return an exercise as a notebook, in the JSON of Jupyter's format 4.5."""
    cells = [_cell("markdown", f"# {exercise.number}. {exercise.title}\n\n{_markdown(exercise.story)}")]
    if exercise.numpy:
        cells += [_cell("code", text) for text in cells_over_numpy(exercise)]
    else:
        cells += [_cell("code", text) for text in (*given_cells(exercise), *blank_cells(exercise))]
        cells += [_cell("markdown", "The whole sheet:"), _cell("code", "%backhand")]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def cells_over_numpy(exercise: Exercise) -> list[str]:
    """Return the cells of an exercise over NumPy: its functions, the backward blank, and a call of them."""
    names = list(inspect.signature(exercise.solution.backward).parameters)
    text = blank(exercise)
    head = "\n".join(["%load_ext backhand", *imports(textbook(exercise), text)])
    functions = [text[text.index(f"def {name}(") :].split("\n\n\n")[0] for name in PARTS]
    drawn = f"given = inputs(np.random.default_rng({SEED}))\n{{}}, cache = forward(**given)"
    out = names[0].removeprefix("d") if len(names) > 1 else "loss"
    call = [drawn.format(out), *([f"{names[0]} = np.random.randn(*{out}.shape)"] if len(names) > 1 else [])]
    return [head, *functions, "\n".join([*call, f"backward({', '.join(names)})"])]


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
