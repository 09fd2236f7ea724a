"""Names that need more than the numbers: what the statements read, what autograd knows of a step."""

import ast

import pytest
import torch

import backhand
from altered import altered, from_text
from backhand.checking.mistakes.budget import Budget
from backhand.checking.mistakes.mending import by_edit
from backhand.checking.mistakes.workbench import Bench, Focus, Program
from backhand.passes import attention, batch_norm, mlp_chunked, rnn

LOSSES = """
import torch

def forward(x, We, Wd, target):
    z = torch.sigmoid(x @ We)
    recon = z @ Wd
    diff = recon - target
    error = (diff * diff).sum() / 3
    size = (z * z).sum() / 6
    loss = error + 2 * size
    return locals()

def backward(x, We, Wd, z, diff):
    derror = torch.tensor(1.0)
    dsize = torch.tensor(2.0)
    ddiff = 2 * diff / 3 * derror
    drecon = ddiff
    dtarget = -ddiff
    dWd = z.T @ drecon
    dz = drecon @ Wd.T + z / 3 * dsize
    inner = dz * z * (1 - z)
    dWe = x.T @ inner
    dx = inner @ We.T
    return locals()

def inputs(generator):
    shapes = {"x": (5, 3), "We": (3, 4), "Wd": (4, 6), "target": (5, 6)}
    return {k: torch.randn(s, generator=generator) for k, s in shapes.items()}
"""

GATED = """
import torch

out = "y"

def forward(x, gain):
    s = torch.sigmoid(x)
    p = torch.softmax(x, 1)
    r = torch.relu(x)
    wide = (s * p).view(3, 2, 4)
    low = torch.logcumsumexp(r, 1)
    y = gain * wide.sum(1) + low[:3, :4]
    return locals()

def backward(dy, x, gain, s, p, r, wide, low):
    dgain = (wide.sum(1) * dy).sum(0)
    dwide = (gain * dy).unsqueeze(1).expand(3, 2, 4)
    both = dwide.reshape(3, 8)
    ds = p * both
    dp = s * both
    dlow = torch.zeros_like(low)
    dlow[:3, :4] = dy
    later = torch.exp(r.unsqueeze(1) - low.unsqueeze(2))
    dr = (torch.tril(later) * dlow.unsqueeze(2)).sum(1)
    dx = ds * s * (1 - s)
    dx = dx + p * (dp - (dp * p).sum(1, keepdim=True))
    dx = dx + dr * (x > 0)
    return locals()

def inputs(generator):
    return {"x": torch.randn(3, 8, generator=generator), "gain": torch.randn(4, generator=generator)}
"""

# (pass, what is written, what stands there instead, the culprits, the kind, words of the message)
SUBTLE = {
    "an upstream that is only a factor off": (
        LOSSES,
        "z.T @ drecon",
        "z.T @ diff",
        {"Wd"},
        "wrong_upstream",
        "diff is used where drecon belongs",
    ),
    "a number for an upstream": (
        LOSSES,
        "z / 3 * dsize",
        "z / 3 * derror",
        {"z"},
        "wrong_upstream",
        "derror is used where dsize belongs",
    ),
    "an upstream that is not there": (
        LOSSES,
        "z / 3 * dsize",
        "z / 3",
        {"z"},
        "wrong_upstream",
        "dsize, the upstream gradient, is not used",
    ),
    "half a local derivative": (
        LOSSES,
        "inner = dz * z * (1 - z)",
        "inner = dz * z",
        {"We"},
        "wrong_point",
        "in `inner = dz * z`",
    ),
    "no local derivative": (
        LOSSES,
        "inner = dz * z * (1 - z)",
        "inner = dz",
        {"We"},
        "wrong_point",
        "in `inner = dz`, the derivative of the sigmoid in `z = torch.sigmoid(x @ We)` is missing",
    ),
    "a constant inside a sum": (
        LOSSES,
        "+ z / 3 * dsize",
        "+ 0.7 * z / 3 * dsize",
        {"z"},
        "scale",
        "the branch through size times 0.7",
    ),
    "a softmax without its sum": (
        GATED,
        "p * (dp - (dp * p).sum(1, keepdim=True))",
        "p * dp",
        {"x"},
        "missing_branch",
        "",
    ),
    "a mask for a gradient": (
        GATED,
        "dr = (torch.tril(later) * dlow.unsqueeze(2)).sum(1)",
        "dr = x > 0",
        {"r"},
        "wrong_upstream",
        "dlow, the gradient that comes from low, is not used",
    ),
}


@pytest.mark.seconds
@pytest.mark.parametrize("name", SUBTLE)
def test_what_the_numbers_alone_do_not_tell_is_named_by_the_statements(name: str) -> None:
    text, old, new, culprits, kind, words = SUBTLE[name]
    assert backhand.check(from_text(text), stress=False).ok
    assert old in text
    report = backhand.check(from_text(text.replace(old, new)), stress=False)
    assert {row.name for row in report.culprits} == culprits
    for row in report.culprits:
        assert row.mistake.kind == kind, row.mistake
        assert words in row.mistake.message


SOFTMAX = """
import torch

out = "y"

def forward(x):
    y = torch.softmax(x, 1)
    return locals()

def backward(dy, y):
    dx = y * dy - y * (y * dy).sum(1, keepdim=True)
    return locals()

def inputs(generator):
    return {"x": torch.randn(4, 6, generator=generator)}
"""


def test_a_term_that_couples_the_elements_is_told_with_its_axis() -> None:
    report = backhand.check(from_text(SOFTMAX.replace(" - y * (y * dy).sum(1, keepdim=True)", "")))
    mistake = report["x"].mistake
    assert (mistake.kind, mistake.detail["axes"]) == ("missing_branch", [1])
    assert "the term that couples the elements along axis 1 is missing: `y * (...).sum(1" in mistake.message
    other = backhand.check(from_text(SOFTMAX.replace("(y * dy).sum(1", "(y * dy).sum(0")))
    assert other["x"].mistake.kind == "overreduced"


@pytest.mark.seconds
def test_right_values_in_other_places_are_told_from_wrong_ones() -> None:
    line = "dv = weights.transpose(-2, -1) @ dy"
    moved = backhand.check(
        altered(attention, (line, line + "\n    dv = dv.flip(1).roll(2, 2)")), stress=False
    )
    assert moved["v"].mistake.kind == "transposed"
    assert "the right values in other places" in moved["v"].mistake.message
    wrong = backhand.check(altered(attention, (line, line + "\n    dv = dv.flip(1) ** 3")), stress=False)
    assert wrong["v"].mistake.kind == "unexplained"


def test_one_gradient_with_the_value_of_another_is_not_swapped() -> None:
    to_q, to_k = "dq = scale * dscores @ k", "dk = scale * dscores.transpose(-2, -1) @ q"
    one = backhand.check(altered(attention, (to_q, to_k + "\n    dq = dk")), stress=False)
    assert [(row.name, row.mistake.kind) for row in one.culprits] == [("q", "wrong_upstream")]
    exchanged_twice = altered(attention, (to_k, to_k + "\n    dq, dk = dk, dq\n    dk, dq = dq, dk"))
    assert backhand.check(exchanged_twice, stress=False).ok


def test_what_is_assigned_where_it_accumulates_is_overwritten_though_nothing_stood_before() -> None:
    start = ("    dWhy = torch.zeros_like(Why)  # (m, o)\n", "")
    report = backhand.check(altered(rnn, start, ("dWhy += hs[t]", "dWhy = hs[t]")), stress=False)
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("Why", "overwritten")]


def test_a_wrong_temporary_in_a_loop_is_told_by_its_own_line() -> None:
    report = backhand.check(altered(rnn, ("(1 - hs[t] ** 2)", "(1 - hs[t] ** 3)")), stress=False, draws=1)
    (culprit,) = report.culprits
    assert culprit.mistake.kind == "wrong_point"
    assert "in `dpre = (1 - hs[t] ** 3) * dhs[t]`, a power" in culprit.mistake.message
    assert culprit.lines[0].text.startswith("dpre = ")


def test_a_line_that_only_comes_too_early_is_not_given_another_mistake() -> None:
    line = "inner = dz * z * (1 - z)\n    dWe = x.T @ inner"
    early = "dWe = x.T @ inner\n    inner = dz * z * (1 - z)"
    report = backhand.check(from_text(LOSSES.replace(line, early)), stress=False)
    assert report["We"].mistake.kind == "unexplained"
    assert "the line raises NameError" in report["We"].mistake.message


def test_a_boolean_gradient_is_judged() -> None:
    text = "def forward(x):\n    y = x.relu()\n    return locals()\n\n"
    text += "def backward(x, dy):\n    dx = x > 0\n    return locals()\n"
    report = backhand.check(from_text(text), inputs={"x": torch.randn(4, 3)}, out="y")
    assert report["x"].mistake.kind == "wrong_upstream"


def test_inputs_that_are_no_dictionary_are_told_in_one_line() -> None:
    with pytest.raises(backhand.BackhandError, match="inputs are int; expected a dictionary"):
        backhand.check(lambda x: {"loss": x.sum()}, lambda x: {"dx": 1}, inputs=lambda generator: 3)
    with pytest.raises(backhand.BackhandError, match="inputs raised ZeroDivisionError"):
        backhand.check(lambda x: {"loss": x.sum()}, lambda x: {"dx": 1}, inputs=lambda generator: 1 / 0)


TANH = """
import torch

def forward(x):
    h = torch.tanh(x)
    s = h + 1
    loss = (s * s).mean()
    return locals()

def backward(x, h, s):
    ds = 2 * s / s.numel()
    dh = ds.clone()
    dx = (1 - h**2) * dh
    return locals()

def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator)}
"""


@pytest.mark.parametrize(
    ("old", "new", "kind", "said", "hint"),
    [
        ("* dh", "* dhh", "wrong_upstream", "dhh was never assigned", "; did you mean dh?"),
        ("1 - h**2", "1 - hh**2", "unexplained", "hh was never assigned", "; did you mean h?"),
        (
            "* dh",
            "* dh\n    dx += 0 * dq\n    dq += 1",
            "wrong_upstream",
            "dq was never assigned",
            "?",
        ),
        ("    dh = ds.clone()\n", "", "wrong_upstream", "dh was never assigned", " above it."),
        (
            "dh = ds.clone()\n    dx = (1 - h**2) * dh",
            "dx = (1 - h**2) * dh\n    dh = ds.clone()",
            "wrong_upstream",
            "dh is assigned below",
            " above it.",
        ),
    ],
)
def test_a_variable_that_nothing_above_has_assigned_is_told(
    old: str, new: str, kind: str, said: str, hint: str
) -> None:
    report = backhand.check(from_text(TANH.replace(old, new)))
    (row,) = report.culprits
    assert (row.name, row.mistake.kind) == ("x", kind)
    assert row.mistake.message == f"dx: the line raises NameError, for {said}."
    assert row.mistake.hint.endswith(hint)


def test_a_variable_whose_line_raised_is_traced_back_to_that_line() -> None:
    text = """
def forward(x, w):
    y = (2 * x) @ w
    return locals()

def backward(dy, x, w):
    dw = 2 * x.T @ dy
    back = dy @ w
    dx = 2 * back
    return locals()
"""
    inputs = {"x": torch.randn(3, 4), "w": torch.randn(4, 2)}
    (culprit,) = backhand.check(from_text(text), inputs=inputs, out="y").culprits
    assert (culprit.name, culprit.mistake.kind) == ("x", "transposed")
    assert "the line raises RuntimeError" in culprit.mistake.message


FIRST = "dlogprobs[torch.arange(n, device=Xb.device), Yb] = -1 / n\n    dprobs = dlogprobs / probs"
AT = "dlogprobs[torch.arange(n), Yb]"

# (pass, the line, a slip in it, the culprit, the kind, words of the message, then a near miss that is right)
LESS_SIMPLE = {
    "a product without @": (
        mlp_chunked,
        "dh = dlogits @ W2.T",
        "dh = dlogits * W2.T",
        "h",
        "product",
        "`dlogits * W2.T` multiplies element by element, (32, 27) by (27, 64), where the matrix product `@`",
        "dh = (dlogits[:, None] * W2).sum(2)",
    ),
    "a power left out": (
        mlp_chunked,
        "-(counts_sum**-2) * dcounts_sum_inv",
        "-1 * dcounts_sum_inv",
        "counts_sum",
        "wrong_point",
        "of the derivative of counts_sum_inv, what depends on counts_sum is missing",
        "-1 * dcounts_sum_inv / counts_sum**2",
    ),
    "a derivative a line too early": (
        mlp_chunked,
        FIRST,
        f"{AT} = -1 / n / probs[torch.arange(n), Yb]\n    dprobs = dlogprobs",
        "logprobs",
        "wrong_upstream",
        "it is dprobs already: the derivative of logprobs is multiplied in a line too early",
        f"{AT} = -1 / n\n    dprobs = 1 / probs * dlogprobs",
    ),
    "two slips in one line": (
        mlp_chunked,
        "dhpreact = (1 - h**2) * dh",
        "dhpreact = -(1 - h) * dh",
        "hpreact",
        "wrong_point",
        "two slips in one line: `1 - h` stands where `1 - h ** 2` belongs, and it is -1 times what it",
        "dhpreact = -(h**2 - 1) * dh",
    ),
    "one element of the upstream gradient": (
        batch_norm,
        "dbias = dy.sum(0)",
        "dbias = dy.flatten()[-1].sum(0)",
        "bias",
        "ignores_upstream",
        "`dy.flatten()[-1]` is one element of dy, where all of it belongs",
        "dbias = dy.flatten().view(dy.shape).sum(0)",
    ),
    "ones for zeros": (
        mlp_chunked,
        "dlogprobs = torch.zeros_like(probs)",
        "dlogprobs = torch.ones_like(probs)",
        "logprobs",
        "repeated_branch",
        "the term `torch.ones_like(probs)` is one too many: it begins with ones, not zeros",
        "dlogprobs = torch.ones_like(probs) * 0",
    ),
    "another name and a factor": (
        batch_norm,
        "dx = dcentered + dmean / n",
        "dx = dcentered + dvar / (n - 1)",
        "x",
        "scale",
        "two slips in one line: a factor is off at `n - 1`, and dvar is used where dmean belongs",
        "dx = dcentered + dmean / (n - 1) * (n - 1) / n",
    ),
}


@pytest.mark.seconds
@pytest.mark.parametrize("name", LESS_SIMPLE)
def test_a_less_simple_slip_is_named_and_a_right_near_miss_is_not(name: str) -> None:
    module, line, wrong, culprit, kind, words, right = LESS_SIMPLE[name]
    report = backhand.check(altered(module, (line, wrong)), stress=False)
    mistake = report[culprit].mistake
    assert mistake is not None
    assert mistake.kind == kind, mistake
    assert words in mistake.message
    near = backhand.check(altered(module, (line, right)), stress=False)
    assert near.ok, str(near)


def test_a_missing_branch_is_told_with_the_slip_beside_it() -> None:
    wrong = altered(
        mlp_chunked,
        ("dbndiff = bnvar_inv * dbnraw", "dbndiff = bnvar * dbnraw"),
        ("dbndiff += 2 * bndiff * dbndiff2", "pass"),
    )
    mistake = backhand.check(wrong, stress=False)["bndiff"].mistake
    assert mistake.kind == "missing_branch"
    assert "the branch through bndiff2 is missing, and in what is there the derivative is" in mistake.message
    assert "evaluated at bnvar, not at bnvar_inv" in mistake.message


INDEXED = """
import torch

out = "y"

def forward(x):
    top = x.max(1, keepdim=True).values
    y = x * top
    return locals()

def backward(dy, x, top):
    dtop = (x * dy).sum(1, keepdim=True)
    one = torch.zeros_like(x)
    one[range(len(x)), x.max(1).indices] = 1
    dx = top * dy + one * dtop
    return locals()

def inputs(generator):
    return {"x": torch.randn(5, 4, generator=generator)}
"""


def test_an_index_that_reaches_every_pair_is_told_as_one_with_an_axis_too_many() -> None:
    assert backhand.check(from_text(INDEXED), stress=False).ok
    report = backhand.check(
        from_text(INDEXED.replace("x.max(1).ind", "x.max(1, keepdim=True).ind")), stress=False
    )
    mistake = report["x"].mistake
    assert mistake.kind == "shape"
    assert "the index `x.max(1, keepdim=True)` has an axis too many or too few" in mistake.message
    assert "every pair" in mistake.message


@pytest.mark.parametrize(
    "above",
    [
        "pieces = zip(x.split(2), dq.split(2))",  # an iterator is used up by the first run of the loop
        "pieces = list(zip(x.split(2), dq.split(2)))",  # copies of views are views of nothing
    ],
)
def test_what_can_be_used_once_only_is_made_again_for_each_edit(above: str) -> None:
    text = f"dq = torch.zeros_like(x)\n{above}\nfor xi, dqi in pieces:\n    dqi += xi * xi\n"
    x = torch.arange(1.0, 7.0, dtype=torch.float64)
    program = Program.of(ast.parse(text).body, "dq", [Bench({"torch": torch, "x": x}, -x * x)], {})
    found, _ = by_edit(program, Budget())
    assert found is not None
    assert found.kind == "sign"


def test_statements_that_ask_whether_a_tensor_needs_a_gradient_find_it_as_it_was() -> None:
    text = "dx = torch.zeros_like(x)\nfor i in range(2):\n    if x.requires_grad:\n        dx += 2 * x\n"
    x = torch.arange(1.0, 5.0, dtype=torch.float64).requires_grad_()
    program = Program.of(ast.parse(text).body, "dx", [Bench({"torch": torch, "x": x}, 2 * x.detach())], {})
    found, _ = by_edit(program, Budget())
    assert found is not None


def test_an_edit_is_tried_only_where_the_value_is_made_of_what_a_statement_gives() -> None:
    text = "a = 2 * x\nb = 3 * x\ndx = a + 1\n"
    x = torch.arange(1.0, 5.0, dtype=torch.float64)
    program = Program.of(ast.parse(text).body, "dx", [Bench({"x": x}, 2 * x)], {})
    a, b, _ = program.block.body
    assert Focus.on(program, a).matters
    assert not Focus.on(program, b).matters


def test_a_slope_that_is_handed_on_as_the_gradient_is_told_where_it_is() -> None:
    def forward(x):
        y = torch.where(x > 0, x, 0.1 * x)
        return locals()

    def backward(dy, x):
        slope = torch.where(x > 0, 1.0, 0.1)
        dx = slope
        return locals()

    (row,) = backhand.check(
        forward, backward, inputs={"x": torch.randn(4, 3)}, out="y", stress=False
    ).culprits
    assert row.mistake.message.startswith("dx: dy, the upstream gradient, is not used")
    assert row.lines[0].text == "dx = slope"


VARIATION = """
import torch

def forward(path):
    loss = (path[1:] - path[:-1]).abs().sum() + path.square().sum()
    return locals()

def backward(path):
    dpath = 2 * path
    s = torch.sign(path[1:] - path[:-1])
    dpath[1:] += s
    dpath[:-1] -= s
    return {"dpath": dpath}

def inputs(generator):
    return {"path": torch.arange(-7.0, -2.0) + torch.rand(5, generator=generator) / 2}
"""


def test_a_line_that_gives_nothing_but_minus_one_is_edited_too() -> None:
    (row,) = backhand.check(from_text(VARIATION.replace("sign(path[1:] -", "sign(path[1:] +"))).culprits
    assert row.mistake.kind == "sign"
    assert "in `s = torch.sign(path[1:] + path[:-1])`, a term or factor has" in row.mistake.message
    assert row.lines[0].text == "s = torch.sign(path[1:] + path[:-1])"
