"""Files over NumPy that give inputs by calling: notebooks, scripts, files of tests beside the layers."""

from pathlib import Path

import numpy as np
import pytest
from nbformat import write
from nbformat.v4 import new_code_cell, new_notebook

from backhand import CheckError, Report
from backhand.checking.sources.batches import Options
from backhand.checking.sources.files import opened
from backhand.checking.sources.watching import Watching

# Of `opts` no table of signatures knows what is in it.
BLEND = """
import numpy as np

def blend_forward(p, q, opts):
    return opts["share"] * p + (1 - opts["share"]) * q * p, (p, q, opts)

def blend_backward(dout, cache):
    p, q, opts = cache
    dp = dout * (opts["share"] + (1 - opts["share"]) * q)
    dq = dout * (1 - opts["share"]) * {of}
    return dp, dq

class Gate:
    def __init__(self, sizes):
        self.W = np.ones(sizes.features)

    def forward(self, x):
        self.x = x
        return x * self.W

    def backward(self, dout):
        self.dW = (dout * self.x).sum(axis={axis})
        return dout * self.W
"""
TESTS = """
import unittest
from types import SimpleNamespace

import numpy as np
import layers
from layers import blend_backward, blend_forward

def test_blend():
    p, q = np.linspace(1, 2, 12).reshape(3, 4), np.linspace(-1, 2, 12).reshape(3, 4)
    out, cache = blend_forward(p, q, {"share": 0.3})
    dp, dq = blend_backward(np.ones_like(out), cache)
    assert False, "as with a student's first try"

class TestGate(unittest.TestCase):
    def test_gradients(self):
        layer = layers.Gate(SimpleNamespace(features=4))
        layer.backward(layer.forward(np.linspace(-1, 1, 12).reshape(3, 4)))
"""


def course(folder: Path, *, of: str = "p", axis: int = 0) -> Path:
    file = folder / "layers.py"
    file.write_text(BLEND.format(of=of, axis=axis))
    (folder / "test_layers.py").write_text(TESTS)
    return file


def reports(file: Path) -> dict[str, Report]:
    with opened(file, Options()) as subjects:
        return {subject.name: subject.check() for subject in subjects}


def states(file: Path) -> dict[str, bool]:
    return {name: report.ok for name, report in reports(file).items()}


def test_the_tests_beside_a_file_give_inputs(tmp_path: Path):
    assert states(course(tmp_path)) == {"Gate": True, "blend_backward": True}
    assert states(course(tmp_path, of="q", axis=1)) == {"Gate": False, "blend_backward": False}


def test_tests_in_a_folder_of_their_own_do_as_well(tmp_path: Path):
    file = course(tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "test_layers.py").rename(tmp_path / "tests" / "test_layers.py")
    assert states(file)["blend_backward"] is True


def test_the_tests_of_a_plain_class_do_as_well(tmp_path: Path):
    in_a_class = """class TestBlend:
    def setup_method(self):
        self.drawn = np.linspace(1, 2, 12).reshape(3, 4), np.linspace(-1, 2, 12).reshape(3, 4)

    def test_blend(self):
        p, q = self.drawn
        out, cache = blend_forward(p, q, {"share": 0.3})
        dp, dq = blend_backward(np.ones_like(out), cache)
"""
    file = course(tmp_path, of="q")
    before, _, rest = TESTS.partition("def test_blend():")
    tests = before + in_a_class + rest[rest.index("\nclass TestGate") :]
    file.with_name("test_layers.py").write_text(tests)
    assert states(file) == {"Gate": True, "blend_backward": False}


def test_a_file_of_tests_is_checked_by_its_calls(tmp_path: Path):
    file = course(tmp_path, of="q").with_name("test_layers.py")
    found = reports(file)
    assert found["Gate"].ok
    assert [row.gradient for row in found["blend_backward"].culprits] == ["dq"]
    assert "The lines are those of layers.py." in found["blend_backward"].notes


def notebook(folder: Path, *cells: str) -> Path:
    file = folder / "layers.ipynb"
    write(new_notebook(cells=[new_code_cell(cell) for cell in cells]), file)
    return file


def test_a_notebook_is_checked_by_its_calls_and_a_line_is_told_with_its_cell(tmp_path: Path):
    course(tmp_path)
    file = notebook(
        tmp_path,
        "%load_ext autoreload\n%autoreload 2\nimport numpy as np\nfrom layers import *",
        "rng = np.random.default_rng(0)\np, q = rng.normal(size=(2, 3, 4))\ninputs = p, q",
        "out, cache = blend_forward(p, q, {'share': 0.3})\nblend_backward(out, cache)",
        "def my_forward(x):\n    return np.tanh(x), x\n\ndef my_backward(dout, cache):\n"
        "    dx = dout * (1 - np.tanh(cache))\n    return dx",
        "nothing_there",
        "out, cache = my_forward(p)\nmy_backward(np.ones_like(p), cache)",
    )
    found = reports(file)
    assert found["blend_backward"].ok
    (row,) = found["my_backward"].culprits
    assert (row.lines[0].file, row.lines[0].number) == ("cell 4", 5)
    assert "cell 4, line 5 | dx = dout * (1 - np.tanh(cache))" in str(found["my_backward"])


def test_a_backward_that_a_notebook_never_called_has_the_usual_inputs(tmp_path: Path):
    file = notebook(
        tmp_path,
        "import numpy as np\ndef relu_forward(x):\n    return np.maximum(x, 0), x",
        "def relu_backward(dout, cache):\n    dx = dout * (cache < 0)\n    return dx",
    )
    assert states(file) == {"relu_backward": False}


def test_a_cell_that_raises_at_its_backward_is_told(tmp_path: Path):
    course(tmp_path)
    file = notebook(tmp_path, "from layers import *", "blend_backward(*unheard_of)")
    with pytest.raises(CheckError, match=r"cell 2 raised NameError: name 'unheard_of' is not defined\."):
        reports(file)


def test_an_import_that_is_not_there_does_not_take_those_below_it(tmp_path: Path):
    (tmp_path / "helping.py").write_text("def doubled(x):\n    return 2 * x\n")
    file = notebook(
        tmp_path,
        "import numpy as np\nimport not_installed_here\nfrom helping import doubled",
        "def twice_forward(x):\n    return doubled(x), x",
        "def twice_backward(dout, cache):\n    return doubled(dout)",
    )
    assert states(file) == {"twice_backward": True}


def test_a_script_is_checked_by_its_calls(tmp_path: Path):
    course(tmp_path, of="q")
    file = tmp_path / "run.py"
    file.write_text(
        "import numpy as np\nfrom layers import *\n\nif __name__ == '__main__':\n"
        "    out, cache = blend_forward(np.ones(3) + 1, np.ones(3), {'share': 0.5})\n"
        "    blend_backward(out, cache)\n"
    )
    assert states(file) == {"blend_backward": False}


def watched(text: str) -> dict:
    space = {"__name__": "__main__", "np": np}
    exec(text, space)
    watching = Watching()
    watching.watch(space)
    return space | {"watching": watching}


def test_a_call_is_judged_with_its_own_upstream_gradient():
    space = watched(BLEND.format(of="q", axis=0))
    p, q = np.random.default_rng(0).normal(size=(2, 3, 4))
    _, cache = space["blend_forward"](p, q, {"share": 0.25})
    space["blend_backward"](np.full((3, 4), 2.0), cache)
    (seen,) = space["watching"].take()
    numbers = seen.check().sheet.pictures["q"].numbers
    assert numbers.expected == pytest.approx(2 * 0.75 * p[numbers.worst])
    assert numbers.found == pytest.approx(2 * 0.75 * q[numbers.worst])


def test_an_upstream_gradient_that_hides_a_mistake_does_not_hide_it_here():
    space = watched(BLEND.format(of="p / dout", axis=0))
    _, cache = space["blend_forward"](*np.random.default_rng(0).normal(size=(2, 3, 4)), {"share": 0.25})
    space["blend_backward"](np.ones((3, 4)), cache)
    (seen,) = space["watching"].take()
    assert not seen.check().ok
