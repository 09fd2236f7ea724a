"""Make the notebooks of this folder: the lecture's four exercises and layers over NumPy, blank and solved.

`make notebooks` runs it. The lecture's are made of the course, the layers of layers.py, so that a notebook
and what it is judged by cannot drift apart. The project's address is that of `[project.urls]` in
pyproject.toml. Colab opens a notebook from there; without an address it is uploaded, with the wheel.
"""

import ast
import tomllib
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from backhand.checking.running.statements import writes_surely
from backhand.learning.blanking import SHAPE, Textbook, asked, imports, textbook
from backhand.learning.course import Exercise, find
from backhand.learning.notebooks import given_cells

FOLDER = Path(__file__).parent
LECTURE = ("mlp_chunked", "cross_entropy_fused", "batch_norm_fused", "mlp_fused")
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
COLAB = "https://colab.research.google.com/"
BADGE = f"[![Open in Colab]({COLAB}assets/colab-badge.svg)]({{address}})"
UPLOADED = "Colab asks for the notebook: upload this file, and beside it the wheel that `make dist` builds."

INSTALL = """\
# installs backhand where it is missing; the torch that is there stays as it is
import importlib.util

if importlib.util.find_spec("backhand") is None:
    %pip install --quiet git+{repository}
%load_ext backhand"""
INSTALL_LOCALLY = """\
# installs backhand where it is missing; the torch that is there stays as it is
import importlib.util
from pathlib import Path

if importlib.util.find_spec("backhand") is None:
    place = next(Path().glob("backhand-*.whl"), Path("{project}"))
    missing = "put the wheel of backhand, which `make dist` builds, beside this notebook"
    assert place.suffix == ".whl" or (place / "pyproject.toml").exists(), missing
    %pip install --quiet {{place}}
%load_ext backhand"""

MINIBATCH = """\
# in place of random letters minibatches of first names, three letters in and the next one out
import backhand

words = backhand.load_words("names")
letters = backhand.Vocabulary.of(words)
contexts = backhand.Contexts(backhand.split_words(words, 42).train, letters, 3)
Xs, Ys = contexts[torch.randint(0, len(contexts), (500, 32), generator=generator)]
Xb, Yb = Xs[0], Ys[0]"""

TRAINING = """\
parameters = (C, W1, b1, W2, b2, bngain, bnbias)
losses = []
with torch.no_grad():
    for Xb, Yb in zip(Xs, Ys):
{forward}

{backward}
        for p, dp in zip(parameters, (dC, dW1, db1, dW2, db2, dbngain, dbnbias)):
            p -= 0.1 * dp
        losses.append(loss.item())
print(f"loss: {{losses[0]:.2f}} at first, {{sum(losses[-50:]) / 50:.2f}} at last")"""
YOURS = 'raise NotImplementedError("put your lines of above here, from dlogits to dC")'

LAYERS = """\
# Layers over NumPy

Each forward returns its output and a cache; its backward takes the upstream gradient and the cache, and
returns the gradients of the inputs. Put your own lines in place of each `...`."""


def address() -> str | None:
    """Return where the project is public, if it is."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")


def setup(repository: str | None, folder: str) -> str:
    """Return the first cell: it installs what is not there, and loads the extension."""
    if repository:
        return INSTALL.format(repository=repository)
    return INSTALL_LOCALLY.format(project="../.." if folder else "..")


def badge(repository: str | None, path: str) -> str:
    """Return what opens a notebook of this folder in Colab."""
    if not repository:
        return f"{BADGE.format(address=COLAB)}\n\n{UPLOADED}"
    place = repository.removeprefix("https://github.com/").removesuffix(".git")
    return BADGE.format(address=f"{COLAB}github/{place}/blob/main/notebooks/{path}")


def notebook(name: str, cells: list[NotebookNode], solved: bool, repository: str | None) -> NotebookNode:
    """Put a badge and the setup before the cells."""
    folder = "solved/" if solved else ""
    head, *rest = cells
    head.source = f"{badge(repository, f'{folder}{name}.ipynb')}\n\n{head.source}"
    cells = [head, new_code_cell(setup(repository, folder)), *rest]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"  # the same at every run
    return new_notebook(cells=cells, metadata=KERNEL)


def lecture(exercise: Exercise, solved: bool) -> list[NotebookNode]:
    """Return the cells of one of the lecture's exercises."""
    _, inputs, *rest = given_cells(exercise)
    names = [MINIBATCH] if "Xb" in inputs else []
    needed = "\n".join(imports(textbook(exercise), exercise.solution_text))
    given = [needed, inputs, *names, *rest]
    blanks = [f"{name} = ...  # {shape}" for name, shape in asked(exercise).items()]
    gradients = gradient_cells(exercise) if solved else blanks
    cells = [new_markdown_cell(f"# {exercise.title}\n\n{exercise.story.strip()}")]
    cells += map(new_code_cell, [*given, *gradients])
    cells += [new_markdown_cell("The whole sheet:"), new_code_cell("%backhand")]
    if exercise.trains:
        cells += [
            new_markdown_cell("Train with it, autograd switched off:"),
            new_code_cell(training(exercise, solved)),
        ]
    return cells


def gradient_cells(exercise: Exercise) -> list[str]:
    """Return the textbook's backward, a cell for each gradient; what completes one stays where it is."""
    book, wanted = textbook(exercise), set(asked(exercise))
    cells: list[list[str]] = []
    helpers: list[str] = []
    for statement in statements(book, "backward"):
        written, text = set(writes_surely(statement)), book.text(statement)
        if written & wanted:
            wanted -= written
            cells.append([*helpers, text])
            helpers = []
        elif cells and any(name.startswith("d") for name in written):
            cells[-1] += [*helpers, text]
            helpers = []
        else:
            helpers.append(text)
    return [dedented("\n".join(cell)) for cell in cells]


def statements(book: Textbook, name: str) -> list[ast.stmt]:
    """Return the statements of a function of a pass, without docstring and return."""
    return [s for s in book.function(name).body if not isinstance(s, ast.Expr | ast.Return)]


def training(exercise: Exercise, solved: bool) -> str:
    """Return the cell that trains with the gradients."""
    book = textbook(exercise)

    def lines(name: str) -> str:
        text = dedented("\n".join(book.text(s) for s in statements(book, name)))
        return indented(text)

    return TRAINING.format(
        forward=lines("forward"), backward=lines("backward") if solved else indented(YOURS)
    )


def dedented(text: str) -> str:
    """Return lines of a function's body without its four blanks."""
    return "\n".join(line.removeprefix("    ") for line in text.splitlines())


def indented(text: str) -> str:
    """Return lines as they stand in a loop within `with`."""
    return "\n".join(" " * 8 + line for line in text.splitlines())


def layers(solved: bool) -> list[NotebookNode]:
    """Return the cells of the layers over NumPy: forward, backward, and the verdict."""
    text = (FOLDER / "layers.py").read_text(encoding="utf-8")
    lines = text.splitlines()
    functions = {f.name: f for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)}
    cells = [
        new_markdown_cell(LAYERS),
        new_code_cell("import numpy as np\n\nimport backhand"),
    ]
    for name, function in functions.items():
        code = "\n".join(lines[function.lineno - 1 : function.end_lineno])
        if name.endswith(("_backward", "_loss")) and not solved:
            code = blanked(code)
        cells.append(new_code_cell(code))
        if name.endswith("_inputs"):
            cells.append(new_code_cell(judging(name.removesuffix("_inputs"), functions)))
    return cells


def blanked(code: str) -> str:
    """Put `...` in place of each gradient that a layer makes; its shape stays."""
    lines = code.splitlines()
    for statement in ast.parse(code).body[0].body:  # pyright: ignore[reportAttributeAccessIssue]
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id.startswith("d"):
            shape = SHAPE.match(lines[statement.lineno - 1].partition("  # ")[2])
            assert shape is not None
            lines[statement.lineno - 1] = f"    {target.id} = ...  # {shape[0]}"
    return "\n".join(lines)


def judging(layer: str, functions: dict[str, ast.FunctionDef]) -> str:
    """Return the cell that has a layer judged."""
    forward, backward = f"{layer}_forward", f"{layer}_backward"
    if forward not in functions:
        forward, backward = f"{layer}_loss", "None"
    return f"print(backhand.check_pair({forward}, {backward}, {layer}_inputs))"


def made(repository: str | None) -> dict[str, str]:
    """Return every notebook as the text of its file, by its path in this folder."""
    found: dict[str, str] = {}
    for solved in (False, True):
        folder = "solved/" if solved else ""
        contents = {f"lecture_{i}": lecture(find(name), solved) for i, name in enumerate(LECTURE, start=1)}
        for name, cells in (contents | {"layers": layers(solved)}).items():
            book = notebook(name, cells, solved, repository)
            found[f"{folder}{name}.ipynb"] = nbformat.writes(book) + "\n"
    return found


if __name__ == "__main__":
    for name, text in made(address()).items():
        (FOLDER / name).write_text(text, encoding="utf-8")
