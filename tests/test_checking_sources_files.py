"""Files as they are: functions, scripts, notebooks; and the habits of those who write them."""

import textwrap
from pathlib import Path

import pytest
import torch

import backhand
from backhand.errors import CheckError
from lecture_cells import FIRST, FORWARD, SECOND, SETUP, notebook


def test_a_notebook_is_checked_as_it_is(tmp_path: Path) -> None:
    cells = ("%matplotlib inline\n" + SETUP, FORWARD, FIRST, SECOND, "plt.plot([1, 2]); plt.show()")
    report = backhand.check_file(notebook(tmp_path / "ninja.ipynb", *cells))
    assert report.ok, str(report)
    assert [p.name for p in tmp_path.iterdir()] == ["ninja.ipynb"]


def test_a_wrong_line_of_a_notebook_is_told_with_its_cell(tmp_path: Path) -> None:
    wrong = SECOND.replace("db = dlogits.sum(0)", "db = -dlogits.sum(0)")
    report = backhand.check_file(notebook(tmp_path / "n.ipynb", SETUP, FORWARD, FIRST, wrong))
    (row,) = report.culprits
    assert (row.name, row.mistake.kind) == ("b", "sign")
    assert (row.lines[0].file, row.lines[0].number) == ("cell 4", 5)


def test_a_notebook_stopped_early_says_which_branch_is_missing_so_far(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", SETUP, FORWARD, FIRST, SECOND)
    report = backhand.check_file(path, stop_after=3)
    assert not report.culprits
    assert {row.name for row in report.rows if row.verdict == "todo"} == {"counts", "W", "b"}
    assert report["counts"].note == "so far: the branch through counts_sum is missing"


def test_a_gradient_that_a_later_cell_assigns_again_is_judged_by_its_last_value(tmp_path: Path) -> None:
    again = "dlogits = (logits.softmax(1) - torch.eye(5)[y]) / 6\nW = torch.zeros(3)\n"
    path = notebook(tmp_path / "n.ipynb", SETUP, FORWARD, FIRST, SECOND, again)
    assert backhand.check_file(path).ok
    wrong = notebook(tmp_path / "w.ipynb", SETUP, FORWARD, FIRST, SECOND, again.replace(" / 6", ""))
    assert [(r.name, r.mistake.kind) for r in backhand.check_file(wrong).culprits] == [("logits", "scale")]


def test_a_shell_command_over_several_lines_is_passed_over_and_the_cell_is_judged(tmp_path: Path) -> None:
    cell = "!pip install \\\n    torch \\\n    numpy\nx = torch.randn(4, requires_grad=True)\n"
    cell += "if True:\n    %config X = 1\nloss = x.square().sum()\nloss.backward()\n"
    report = backhand.check_file(notebook(tmp_path / "n.ipynb", "import torch", cell, "dx = x"))
    assert not report.unfinished
    assert [(row.name, row.verdict) for row in report.rows] == [("x", "wrong")]
    assert [(line.file, line.number) for line in report["x"].lines] == [("cell 3", 1)]


@pytest.mark.seconds
def test_a_long_cell_is_left(tmp_path: Path) -> None:
    long = "import time\nfor i in range(1000):\n    time.sleep(0.05)\n"
    path = notebook(tmp_path / "n.ipynb", SETUP, FORWARD, FIRST, SECOND, long)
    report = backhand.check_file(path, time_limit=3)
    assert report.ok, str(report)
    assert any("took more than 3 s" in note for note in report.notes)


def test_a_cell_that_raises_half_way_is_judged_on_what_it_had_assigned(tmp_path: Path) -> None:
    raising = SECOND.replace("dW = x.T @ dlogits", "dW = x @ dlogits")
    report = backhand.check_file(notebook(tmp_path / "n.ipynb", SETUP, FORWARD, FIRST, raising))
    assert not report.ok
    assert report.raised.line.text == "dW = x @ dlogits"
    assert [(r.name, r.mistake.kind) for r in report.culprits] == [("W", "transposed")]


def test_a_script_is_checked_like_a_notebook(tmp_path: Path) -> None:
    path = tmp_path / "ninja.py"
    path.write_text(SETUP + FORWARD + FIRST + SECOND)
    assert backhand.check_file(path).ok
    path.write_text(SETUP + FORWARD + FIRST + SECOND.replace("dcounts += dcounts_sum\n", ""))
    assert [r.name for r in backhand.check_file(path).culprits] == ["counts"]


BLOCKS = {
    "a loop": "for i in range(3):\n    lr = 0.1\n{}    W.data -= lr * dW\n    if i == 1:\n        break\n",
    "a loop without a graph": "with torch.no_grad():\n  i = 0\n  while i < 2:\n    i += 1\n{}",
    "under the script's guard": 'if __name__ == "__main__":\n    pass\n{}',
    "a function": "def main(lr=0.1):\n    n = 6\n{}    return loss\n\n\nmain()\n",
    "a function under the guard": "def main():\n{}    return 0\n\n"
    "if __name__ == '__main__':\n    raise SystemExit(main())\n",
    "a loop after a class": "class A:\n    def f(self):\n        loss = 0\n\nfor i in [0]:\n{}",
    "another case": "if x is None:\n    pass\nelse:\n{}",
    "tried": "try:\n{}finally:\n    pass\n",
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_script_within_a_block_is_judged_there(tmp_path: Path, name: str) -> None:
    body = textwrap.indent(FORWARD.split("for t in")[0] + FIRST + SECOND, "    ")
    body = body.replace('    cmp("probs", dprobs, probs)\n', "").replace('    cmp("W", dW, W)\n', "")
    path = tmp_path / "s.py"
    path.write_text(SETUP + BLOCKS[name].format(body))
    report = backhand.check_file(path)
    assert report.ok, str(report)
    assert [row.verdict for row in report.rows] == ["right"] * 8
    assert any("is judged by its first turn" in note for note in report.notes) == ("loop" in name)
    assert not report.unfinished
    assert not any("are not judged" in note for note in report.notes)
    path.write_text(SETUP + BLOCKS[name].format(body.replace("dcounts += dcounts_sum", "")))
    report = backhand.check_file(path)
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("counts", "missing_branch")]
    assert report["counts"].lines[0].number == 1 + path.read_text().split("\n").index(
        "    dcounts = dprobs * counts_sum_inv"
    )


def test_loops_within_a_block_are_parts_of_the_exercise(tmp_path: Path) -> None:
    body = (
        "emb = C[y % 4]\nh = emb.tanh()\nfor k in range(2):\n    h = h * 3\nloss = (h * emb.tanh()).mean()\n"
    )
    body += "demb = 18 * emb.tanh() * (1 - emb.tanh() ** 2) / emb.numel()\ndC = torch.zeros_like(C)\n"
    body += "for i in range(6):\n    dC[y[i] % 4] += demb[i]\n"
    setup = SETUP + "C = W.detach().clone().requires_grad_()\n"
    path = tmp_path / "s.py"
    for block in ("for turn in [0]:\n", "for turn in range(2):\n", "def main():\n"):
        path.write_text(setup + block + textwrap.indent(body, "    ") + "main()\n" * block.startswith("def"))
        report = backhand.check_file(path)
        assert report.ok, str(report)
        assert report["C"].verdict == report["emb"].verdict == "right"


def test_a_parameter_is_judged_with_the_value_that_it_had_then(tmp_path: Path) -> None:
    path = tmp_path / "s.py"
    path.write_text(SETUP + FORWARD + FIRST + SECOND + "W.data.fill_(float('nan'))\n")
    report = backhand.check_file(path)
    assert report.ok, str(report)
    assert not any("not finite" in note for note in report.notes)


def test_a_graph_outlives_the_cell_that_ran_through_it(tmp_path: Path) -> None:
    again = "loss.backward()\n"  # in a session, the forward was run anew in between
    report = backhand.check_file(notebook(tmp_path / "n.ipynb", SETUP, FORWARD, again, FIRST, SECOND))
    assert report.ok, str(report)
    assert not report.unfinished


def test_a_block_that_raises_is_judged_on_what_it_had_assigned(tmp_path: Path) -> None:
    body = FORWARD.replace("loss.backward()", "") + FIRST.replace("cmp(", "print(") + SECOND
    path = tmp_path / "s.py"
    path.write_text(
        SETUP + "def main():\n" + textwrap.indent(body.replace("x.T @", "x @"), "    ") + "main()\n"
    )
    report = backhand.check_file(path)
    assert [(r.name, r.mistake.kind) for r in report.culprits] == [("W", "transposed")]
    assert report.raised.line.text == "dW = x @ dlogits"
    assert not report.unfinished  # all of it was judged
    path.write_text(
        SETUP + "for i in range(2):\n" + textwrap.indent(body.replace("dW =", "lost\ndW ="), "    ")
    )
    report = backhand.check_file(path)
    assert not report.culprits
    assert any("raised NameError: name 'lost'" in note for note in report.notes)
    assert not any("are not judged" in note for note in report.notes)


def test_a_warning_of_the_users_code_is_shown_once(tmp_path: Path) -> None:
    path = tmp_path / "s.py"
    warning = "import warnings\nscale = warnings.warn('mind') or 1.0\n"
    path.write_text(SETUP + FORWARD + FIRST + warning + SECOND.replace("= dcounts *", "= scale * dcounts *"))
    with pytest.warns(UserWarning, match="mind") as shown:
        assert backhand.check_file(path).ok
    assert len(shown) == 1


def test_a_loop_after_a_cell_that_raised_is_judged_once(tmp_path: Path) -> None:
    loop = "for i in range(2):\n" + textwrap.indent(FORWARD + FIRST + SECOND, "    ")
    report = backhand.check_file(notebook(tmp_path / "n.ipynb", SETUP, "lost", loop))
    assert [row.verdict for row in report.rows] == ["right"] * 8, str(report)
    assert {row.cell for row in report.rows} == {"cell 3"}


def test_an_upstream_taken_from_autograd_and_nested_loops_that_scatter(tmp_path: Path) -> None:
    forward = "C = W.detach().clone().requires_grad_()\nemb = C[y % 4]\nh = emb.tanh()\n"
    forward += "loss = (h * h).mean()\nh.retain_grad()\nloss.backward()\n"
    backward = "demb = (1 - h**2) * h.grad\ndC = torch.zeros_like(C)\n"
    backward += "for i in range(6):\n    dC[y[i] % 4] += demb[i]\n"
    path = tmp_path / "s.py"
    path.write_text(SETUP + forward + backward)
    assert backhand.check_file(path).ok
    path.write_text(SETUP + forward + backward.replace("+= demb", "= demb"))
    assert [(r.name, r.mistake.kind) for r in backhand.check_file(path).culprits] == [("C", "overwritten")]


def test_a_file_of_functions_is_a_pass(tmp_path: Path) -> None:
    path = tmp_path / "square.py"
    text = "import torch\n\ndef forward(x):\n    loss = (x * x).sum()\n    return locals()\n\n"
    text += "def backward(x):\n    dx = 2 * x\n    return locals()\n\n"
    text += "def inputs(generator):\n    return {'x': torch.randn(3, generator=generator)}\n"
    path.write_text(text)
    assert backhand.check_file(path).ok
    assert [p.name for p in tmp_path.iterdir()] == ["square.py"]
    path.write_text(text.replace("2 * x", "x"))
    assert backhand.check_file(path)["x"].lines[0].number == 8


KERNEL = """
import torch

class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gain):
        ctx.save_for_backward(x, gain)
        return x * gain

    @staticmethod
    def backward(ctx, dy):
        x, gain = ctx.saved_tensors
        return dy * gain, (dy * x).sum(0)
"""


REFERENCE = """
def reference(x, gain):
    return gain * x
"""


ARGUMENTS = """
def inputs(generator):
    return {"x": torch.randn(6, 5, generator=generator), "gain": torch.randn(5, generator=generator)}
"""


def test_a_file_with_a_custom_function_is_checked_against_its_reference(tmp_path: Path) -> None:
    file = tmp_path / "kernel.py"
    file.write_text(KERNEL + REFERENCE + ARGUMENTS)
    report = backhand.check_file(file)
    assert report.ok
    assert (report.title, [row.name for row in report.rows]) == ("Scaled", ["x", "gain"])
    file.write_text((KERNEL + REFERENCE + ARGUMENTS).replace("dy * gain, ", "dy * gain * 2, "))
    assert [row.name for row in backhand.check_file(file).culprits] == ["x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (KERNEL, "has the custom Function Scaled, but no reference and no inputs"),
        (KERNEL + REFERENCE, "has the custom Function Scaled, but no inputs"),
        (
            KERNEL + KERNEL.replace("Scaled", "Other") + REFERENCE + ARGUMENTS,
            "several custom Functions, Scaled, Other",
        ),
    ],
)
def test_a_file_with_a_custom_function_says_what_it_lacks(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "kernel.py"
    file.write_text(text)
    with pytest.raises(CheckError, match=message):
        backhand.check_file(file)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("1 / 0", "inputs raised ZeroDivisionError: division by zero"),
        ("3", "inputs are int; expected the arguments, by name or in order"),
    ],
)
def test_a_custom_functions_inputs_that_cannot_be_drawn_are_told(
    tmp_path: Path, returned: str, message: str
) -> None:
    file = tmp_path / "kernel.py"
    file.write_text(f"{KERNEL}{REFERENCE}\ndef inputs(generator):\n    return {returned}\n")
    with pytest.raises(CheckError, match=message):
        backhand.check_file(file)
    file.write_text(KERNEL + REFERENCE + ARGUMENTS)
    with pytest.raises(CheckError, match="draws is 0; expected at least 1"):
        backhand.check_file(file, draws=0)


def test_a_script_with_a_custom_function_and_a_loss_stays_a_script(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    lines = "x = torch.ones(3, requires_grad=True)\nloss = x.square().sum()\ndx = 2 * x\n"
    file.write_text(KERNEL + lines)
    assert [(row.name, row.verdict) for row in backhand.check_file(file).rows] == [("x", "right")]


def test_a_loss_within_a_custom_function_or_its_reference_makes_no_script_of_a_file(tmp_path: Path) -> None:
    forward, gives = "return x * gain\n", "return gain * x\n"
    for old, new in (
        (forward, "loss = x * gain\n        return loss\n"),
        (gives, "loss = gain * x\n    return loss\n"),
    ):
        file = tmp_path / "kernel.py"
        file.write_text((KERNEL + REFERENCE + ARGUMENTS).replace(old, new))
        report = backhand.check_file(file)
        assert (report.title, report.ok) == ("Scaled", True)


def test_a_forward_that_raises_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "kernel.py"
    file.write_text((KERNEL + REFERENCE + ARGUMENTS).replace("return x * gain", "return x @ gain.T.T @ gain"))
    with pytest.raises(CheckError, match=r"^Scaled raised RuntimeError: .* \(kernel.py, line 8: `return x @"):
        backhand.check_file(file)


def test_without_a_file_the_projects_own_gradients_are_checked() -> None:
    report = backhand.check_file()
    assert report.ok
    assert len(report.rows) == 26


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.py", None, "cannot be read: No such file"),
        ("a.txt", "x", "is no .py file"),
        ("a.py", "def f(:\n", "line 1: "),
        ("a.py", "x = 1\n", "no statement assigns 'loss'"),
        ("a.py", "raise ValueError('no')\n", "a.py raised ValueError: no"),
        (
            "a.py",
            SETUP + "for i in x:\n    loss = (i * W[:, 0]).sum().item()\ndW = x\n",
            "assigns 'loss', but no scalar tensor",
        ),
        (
            "a.py",
            "import numpy as np\nw = np.ones(2)\nloss = (w**2).sum()\ngrad_w = 2 * w\n",
            "over NumPy, let a function give it with its gradients",
        ),
        ("a.py", SETUP + FORWARD, "nothing after `loss` assigns a gradient"),
        ("a.ipynb", "{", "is no notebook"),
        ("a.ipynb", "[]", "is no notebook"),
    ],
)
def test_a_bad_file_gives_one_clear_line(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(CheckError, match=message) as caught:
        backhand.check_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_what_was_retained_in_a_live_namespace_is_left_as_it_is() -> None:
    names: dict = {}
    exec(
        SETUP + FORWARD.replace("loss.backward()", "loss.backward(retain_graph=True)") + FIRST + SECOND, names
    )
    names["dlogits"] = -names["dlogits"]
    before = {name: names[name].grad.clone() for name in ("logits", "probs", "W")}
    backhand.check_namespace(names)
    assert all(torch.equal(names[name].grad, gradient) for name, gradient in before.items())


THROUGH_TIME = """
import torch
torch.manual_seed(0)
T, n, k, m = 4, 3, 2, 5
x = torch.randn(T, n, k)
Wx, Wh = torch.randn(k, m, requires_grad=True), torch.randn(m, m, requires_grad=True)
h = torch.zeros(n, m)
hs = [h]
for t in range(T):
    h = torch.tanh(x[t] @ Wx + h @ Wh)
    hs.append(h)
loss = (h**2).mean()
dhnext = 2 * h / h.numel()
dWx, dWh = torch.zeros_like(Wx), torch.zeros_like(Wh)
for t in reversed(range(T)):
    h = hs[t + 1]
    da = (1 - h**2) * dhnext
    dWx += x[t].T @ da
    dWh += hs[t].T @ da
    dhnext = da @ Wh.T
"""


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("old", "new", "culprits"),
    [("", "", []), ("(1 - h**2)", "(1 - h)", ["Wx"]), ("hs[t].T", "hs[t + 1].T", ["Wh"])],
)
def test_a_backward_through_time_may_share_its_loop_variables_with_the_forward(old, new, culprits, tmp_path):
    path = tmp_path / "through_time.py"
    path.write_text(THROUGH_TIME.replace(old, new))
    report = backhand.check_file(path)
    assert [row.name for row in report.culprits] == culprits, str(report)
    assert {"Wx", "Wh"} <= {row.name for row in report.rows if row.verdict != "skipped"}


TARGETED = """
import torch


class Squares(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, target):
        ctx.save_for_backward(x - target)
        return (x - target).square().mean()

    @staticmethod
    def backward(ctx, dloss):
        (off,) = ctx.saved_tensors
        return 2 * off * dloss / off.numel(), None


def reference(x, target):
    return (x - target).square().mean()


def inputs(generator):
    return {name: torch.randn(4, 3, generator=generator) for name in ("x", "target")}
"""


@pytest.mark.parametrize(
    ("said", "is_right"), [("", False), ('no_gradient = ("target",)', True), ('no_gradient = "target"', True)]
)
def test_a_file_says_which_inputs_have_no_gradient_on_purpose(
    tmp_path: Path, said: str, is_right: bool
) -> None:
    path = tmp_path / "squares.py"
    path.write_text(f"{TARGETED}\n\n{said}\n")
    assert backhand.check_file(path).ok is is_right


REFUSING = """
import torch


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        with torch.enable_grad():
            ctx.x = x.detach().requires_grad_()
            ctx.y = ctx.x.exp()
        return ctx.y.detach()

    @staticmethod
    def backward(ctx, dy):
        return torch.autograd.grad(ctx.y, ctx.x, dy)[0]


reference = torch.exp
inputs = [torch.randn(4, 3)]
"""


def test_what_a_file_may_refuse_is_said_in_it(tmp_path: Path) -> None:
    path = tmp_path / "once.py"
    path.write_text(REFUSING)
    (refused,) = (m for m in backhand.check_file(path).stress if m.kind == "modifies_input")
    assert "a second time" in refused.message
    assert 'allow=("modifies_input",)' in refused.hint
    path.write_text(REFUSING + '\nallow = ("modifies_input",)\n')
    assert backhand.check_file(path).ok


def test_a_reference_that_autograd_cannot_differentiate_is_said_to_be_that(tmp_path: Path) -> None:
    path = tmp_path / "squares.py"
    path.write_text(TARGETED.replace("return (x - target).square().mean()\n\n\ndef inputs", STEP))
    with pytest.raises(CheckError, match="differentiating the reference raised RuntimeError"):
        backhand.check_file(path)


STEP = "return torch.heaviside(x - target, torch.zeros((), dtype=x.dtype)).mean()\n\n\ndef inputs"


def test_a_pass_may_have_its_forward_from_another_file(tmp_path: Path) -> None:
    (tmp_path / "the_model.py").write_text("def forward(x):\n    y = x * x\n    return locals()\n")
    backward = "def backward(dy, x):\n    dx = 3 * x * dy\n    return locals()\n"
    inputs = "def inputs(generator):\n    return {'x': torch.randn(4, generator=generator)}\n"
    (tmp_path / "mine.py").write_text(
        f"import torch\n\nfrom the_model import forward\n\nout = 'y'\n\n\n{backward}\n\n{inputs}"
    )
    report = backhand.check_file(tmp_path / "mine.py")
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("x", "scale")]


def test_what_a_custom_function_calls_over_numpy_is_a_part_of_that(tmp_path: Path) -> None:
    file = tmp_path / "squares.py"
    file.write_text(
        "import numpy as np\nimport torch\n\n"
        "def square(x):\n    return np.square(x)\n\n"
        "def square_backward(dout, x):\n    return 2 * np.asarray(x) * dout\n\n"
        "class Square(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x):\n        ctx.save_for_backward(x)\n"
        "        return torch.from_numpy(square(x.detach().numpy()))\n\n"
        "    @staticmethod\n    def backward(ctx, dy):\n        (x,) = ctx.saved_tensors\n"
        "        return torch.from_numpy(square_backward(dy.numpy(), x.numpy()))\n\n"
        "def reference(x):\n    return x * x\n\n"
        "def inputs(generator):\n    return {'x': torch.randn(4, generator=generator)}\n"
    )
    report = backhand.check_file(file)
    assert report.title == "Square"
    assert report.ok
