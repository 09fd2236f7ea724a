"""Slips in the statements of a backward: raised halfway, in helpers, in what accumulates, in constants."""

import time
from pathlib import Path

import pytest
import torch

import backhand
from altered import altered, from_text
from backhand.checking.mistakes.budget import Budget
from backhand.passes import mlp_chunked, rnn

GATE = """
import torch

out = "y"

def softmax_back(p, dp):
    inner = (p * dp).sum(1, keepdim=True)
    return p * (dp - inner)

def forward(x, W, bias, gain):
    logits = x @ W + bias
    p = torch.softmax(logits, 1)
    top, which = p.topk(2, dim=1)
    total = top.sum(1, keepdim=True)
    share = top / total
    size = (x * x).sum(1, keepdim=True)
    scale = (size + 1e-3) ** -0.5
    unit = x * scale
    y = share * gain + top + unit[:, :2] + p[:, 2:]
    return locals()

def backward(**f):
    x, p, n = f["x"], f["p"], f["x"].shape[0]
    g_share = f["dy"] * f["gain"]
    g_gain = (f["dy"] * f["share"]).sum(0)
    g_total = -(g_share * f["share"]).sum(1, keepdim=True) / f["total"]
    g_top = g_share / f["total"] + g_total + f["dy"]
    g_p = torch.zeros_like(p)
    g_p[:, 2:] += f["dy"]
    g_p.scatter_add_(1, f["which"], g_top)
    g_logits = softmax_back(p, g_p)
    g_W = x.T @ g_logits
    g_unit = torch.zeros_like(x)
    g_unit[:, :2] = f["dy"]
    g_scale = (g_unit * x).sum(1, keepdim=True)
    g_size = -0.5 * (f["size"] + 1e-3) ** -1.5 * g_scale
    g_x = g_logits @ f["W"].T
    g_x = g_x + g_unit * f["scale"]
    g_x += 2 * x * g_size
    return {
        "dshare": g_share,
        "dgain": g_gain,
        "dtotal": g_total,
        "dtop": g_top,
        "dp": g_p,
        "dlogits": g_logits,
        "dW": g_W,
        "dbias": g_logits.sum(0),
        "dunit": g_unit,
        "dscale": g_scale,
        "dsize": g_size,
        "dx": g_x,
    }

def inputs(generator):
    shapes = {"x": (6, 5), "W": (5, 4), "bias": (4,), "gain": (2,)}
    return {k: torch.randn(s, generator=generator) for k, s in shapes.items()}
"""

# what is written, what stands there instead, the culprit, the kind, words of the message
SLIPS = {
    "a line that raises, the result under another name": (
        "g_W = x.T @ g_logits",
        "g_W = x @ g_logits",
        "W",
        "transposed",
        "the line raises RuntimeError: ",
    ),
    "an expression within the returned dictionary": (
        '"dbias": g_logits.sum(0)',
        '"dbias": g_logits.sum(2)',
        "bias",
        "overreduced",
        "the line raises IndexError",
    ),
    "a temporary that raises, told by its own error": (
        'g_gain = (f["dy"] * f["share"]).sum(0)',
        'mixed = f["dy"].T * f["share"]\n    g_gain = mixed.sum(0)',
        "gain",
        "transposed",
        "in `mixed = f['dy'].T * f['share']`",
    ),
    "a raising call does not blame its arguments": (
        'g_p.scatter_add_(1, f["which"], g_top)',
        'g_p.scatter_add_(1, f["which"], g_top[0])',
        "p",
        "partial",
        "the line raises RuntimeError",
    ),
    "a scatter that does not add": (
        'g_p.scatter_add_(1, f["which"], g_top)',
        'g_p.scatter_(1, f["which"], g_top)',
        "p",
        "overwritten",
        "scatter_ writes over what is there, where scatter_add_ belongs",
    ),
    "a slip within a helper": (
        "inner = (p * dp).sum(1, keepdim=True)",
        "inner = (p * dp).sum(0, keepdim=True)",
        "logits",
        "overreduced",
        "in `inner = (p * dp).sum(0, keepdim=True)`, summed over the wrong axis",
    ),
    "the arguments of a helper in the other order": (
        "softmax_back(p, g_p)",
        "softmax_back(g_p, p)",
        "logits",
        "transposed",
        "two arguments of `softmax_back` are in the other order",
    ),
    "another item of a dictionary": (
        '+ g_unit * f["scale"]',
        '+ g_unit * f["size"]',
        "x",
        "wrong_point",
        "",
    ),
    "a lost epsilon": (
        '(f["size"] + 1e-3) ** -1.5',
        'f["size"] ** -1.5',
        "size",
        "wrong_point",
        "lacks the 0.001 that the forward adds",
    ),
    "another epsilon": (
        '(f["size"] + 1e-3) ** -1.5',
        '(f["size"] + 1e-5) ** -1.5',
        "size",
        "scale",
        "a term is off at `1e-05`",
    ),
    "an exponent that is off by a half": (
        '(f["size"] + 1e-3) ** -1.5',
        '(f["size"] + 1e-3) ** -2.0',
        "size",
        "wrong_point",
        "a power has the wrong exponent, `-2.0`",
    ),
    "a lost power": (
        '(f["size"] + 1e-3) ** -1.5',
        '(f["size"] + 1e-3)',
        "size",
        "wrong_point",
        "a power of `f['size'] + 0.001` is missing",
    ),
    "half of a term that another one is added to": (
        'g_x = g_logits @ f["W"].T',
        'g_x = 0.5 * (g_logits @ f["W"].T)',
        "x",
        "scale",
        "the branch through logits times 0.5",
    ),
    "a tensor where the sum so far belongs": (
        'g_x = g_x + g_unit * f["scale"]',
        'g_x = x + g_unit * f["scale"]',
        "x",
        "wrong_upstream",
        "x is used where g_x belongs",
    ),
    "a block at the end without one branch": (
        'g_x = g_x + g_unit * f["scale"]',
        'g_x[:-2] += (g_unit * f["scale"])[:-2]',
        "x",
        "partial",
        "the branch through unit is missing at index 4 to 5 (the end) of axis 0, of 6",
    ),
    "a gradient of shares for one of a sum, which is 1": (
        'g_share = f["dy"] * f["gain"]',
        'g_share = f["dy"] * f["gain"] * f["share"].sum(1, keepdim=True) * 3',
        "share",
        "scale",
        "times 3",
    ),
}


@pytest.mark.seconds
@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_named_at_its_own_gradient_alone(name: str) -> None:
    old, new, culprit, kind, words = SLIPS[name]
    assert old in GATE
    report = backhand.check(from_text(GATE.replace(old, new)), stress=False)
    assert [row.name for row in report.culprits] == [culprit]
    assert report[culprit].mistake.kind == kind, report[culprit].mistake
    assert words in report[culprit].mistake.message, report[culprit].mistake.message


SCRIPT = """
import torch
torch.manual_seed(0)
X = torch.randn(6, 4)
W = torch.randn(4, 3, requires_grad=True)
goal = torch.randn(6, 3)
z = X @ W
p = torch.sigmoid(z)
off = p - goal
loss = (off ** 2).mean()

d_off = 2 * off / off.numel()
d_p = d_off.clone()
d_z = d_p * p * (1 - p)
d_W = X.T @ d_z
"""


@pytest.mark.parametrize(
    ("old", "new", "culprit", "kind", "words"),
    [
        ("d_W = X.T @ d_z", "d_W = X @ d_z", "W", "transposed", "the line raises RuntimeError"),
        ("d_off = 2", "d_off = -2", "off", "sign", "the opposite sign"),
        ("d_p * p * (1 - p)", "d_p * p * (1 - goal)", "z", "wrong_point", "goal is used where p belongs"),
    ],
)
def test_a_slip_in_a_script_is_named(
    tmp_path: Path, old: str, new: str, culprit: str, kind: str, words: str
) -> None:
    file = tmp_path / "script.py"
    file.write_text(SCRIPT.replace(old, new))
    report = backhand.check_file(file)
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [(culprit, kind)]
    assert words in report[culprit].mistake.message
    file.write_text(SCRIPT)
    assert backhand.check_file(file).ok


@pytest.mark.seconds
def test_a_line_that_raises_in_a_loop_is_blamed_alone_though_its_gradient_lies_in_a_list() -> None:
    start = "dhs = [torch.zeros_like(h) for h in hs]", "dhs = [None] * len(hs)"
    report = backhand.check(altered(rnn, start), stress=False, draws=1)
    assert [row.name for row in report.culprits] == ["hs[3]"]
    assert "the line raises TypeError" in report["hs[3]"].mistake.message


def test_a_line_of_a_loop_that_raises_at_a_slice_is_no_crash() -> None:
    odd = "dx[t] = dpre @ Wxh.T", "dx[t, :] = dpre @ Wxh"
    assert [row.name for row in backhand.check(altered(rnn, odd), stress=False).culprits] == ["x"]


def test_none_for_an_input_is_a_fault_of_a_function() -> None:
    empty = GATE.replace('"dW": g_W', '"dW": None')
    report = backhand.check(from_text(empty), stress=False)
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("W", "zero")]


BY_ELEMENTS = """
import torch

out = "y"

def forward(x, w):
    y = torch.zeros(len(x), len(w))
    for i in range(len(x)):
        for j in range(len(w)):
            y[i, j] = (x[i] * w[j]).sum()
    return locals()

def backward(dy, x, w):
    dx, dw = torch.zeros_like(x), torch.zeros_like(w)
    for i in range(len(x)):
        for j in range(len(w)):
            dx[i] += dy[i, j] * w[j]
            dw[j] += dy[i, j] * x[i]
    return locals()

def inputs(generator):
    return {"x": torch.randn(3, 4, generator=generator), "w": torch.randn(3, 4, generator=generator)}
"""


@pytest.mark.parametrize(
    ("right", "wrong", "kind", "told"),
    [
        ("dx[i] +=", "dx[j] +=", "partial", "`dx[j]` stands where `dx[i]` belongs"),
        ("dy[i, j] * w", "dy[j, i] * w", "transposed", "`dy[j, i]` stands where `dy[i, j]` belongs"),
        ("dy[i, j] * w", "dy[i].sum() * w", "partial", "`dy[i]` stands where `dy[i, j]` belongs"),
        ("dy[i, j] * x[i]", "dy[i, j] * x[j]", "partial", "`x[j]` stands where `x[i]` belongs"),
    ],
)
def test_an_index_of_another_loop_is_named_by_what_stands_there(
    right: str, wrong: str, kind: str, told: str
) -> None:
    assert backhand.check(from_text(BY_ELEMENTS), stress=False).ok
    (culprit,) = backhand.check(from_text(BY_ELEMENTS.replace(right, wrong)), stress=False).culprits
    assert (culprit.mistake.kind, wrong.partition(" ")[0].partition(".")[0] in culprit.lines[0].text) == (
        kind,
        True,
    )
    assert told in culprit.mistake.message


NAMED_ANOTHER = """
import torch

out = "y"

def forward(x, W, b, V):
    apreact = x @ W + b
    a = torch.tanh(apreact)
    y = a @ V
    return locals()

def backward(dy, x, W, V, a):
    dV = a.T @ dy
    da = (dy @ V.T) * (1 - a**2)
    dW = x.T @ da
    db = da.sum(0)
    dx = da @ W.T
    return locals()

def inputs(generator):
    shapes = {"x": (5, 3), "W": (3, 4), "b": (4,), "V": (4, 2)}
    return {k: torch.randn(s, generator=generator) for k, s in shapes.items()}
"""


def test_a_gradient_under_the_name_of_another_tensor_is_the_only_culprit() -> None:
    report = backhand.check(from_text(NAMED_ANOTHER), stress=False)
    assert [row.name for row in report.culprits] == ["a"]
    message = report["a"].mistake.message
    assert "dx, dW and db, made of it, are right with this value, the gradient of apreact." in message
    assert report["W"].verdict == "right"
    assert "wrong upstream gradient" in report["W"].note
    wrong = backhand.check(from_text(NAMED_ANOTHER.replace("db = da", "db = -da")), stress=False)
    assert {row.name for row in wrong.culprits} == {"a", "b"}


@pytest.mark.seconds
def test_the_edits_of_all_gradients_of_a_report_have_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = altered(rnn, ("(1 - hs[t] ** 2) * dhs[t]", "torch.sin(3 * hs[t]) * dhs[t] + hs[t] ** 3"))
    report = backhand.check(odd, stress=False, draws=1)
    assert {row.mistake.kind for row in report.culprits} == {"unexplained"}
    monkeypatch.setattr("backhand.checking.mistakes.budget.TRIES", 0)
    given_up = backhand.check(altered(rnn, ("(1 - hs[t] ** 2)", "(1 - hs[t] ** 3)")), stress=False, draws=1)
    assert "unexplained" in {row.mistake.kind for row in given_up.culprits}


def test_each_gradient_may_spend_half_of_what_is_left() -> None:
    whole = Budget(tries=100)
    assert (whole.share().tries, whole.share().is_spent, Budget(tries=1).share().is_spent) == (
        50,
        False,
        True,
    )
    assert whole.less(30).tries == 70
    assert whole.share().until < whole.until
    assert Budget(until=time.process_time()).is_spent


def test_ones_for_zeros_are_told_as_one_term_too_many_though_the_losss_gradient_is_one() -> None:
    text = """
import torch

def forward(C, Xb):
    emb = C[Xb]
    loss = emb.square().sum()
    return locals()

def backward(C, Xb, emb):
    dloss = torch.tensor(1.0)
    demb = 2 * emb * dloss
    dC = torch.ones_like(C)
    for i in range(len(Xb)):
        dC[Xb[i]] += demb[i]
    return locals()
"""
    inputs = {"C": torch.randn(5, 3), "Xb": torch.tensor([0, 2, 2, 4])}
    (culprit,) = backhand.check(from_text(text), inputs=inputs).culprits
    assert (culprit.name, culprit.mistake.kind) == ("C", "repeated_branch")
    assert culprit.mistake.message.startswith("dC: the term `torch.ones_like(C)` is one too many")


OVER_TIME = """
import torch

def forward(xs, h0, W, keep=0.9):
    hs, zs = [h0], []
    for t in range(3):
        zs.append(torch.sigmoid(xs[t] @ W))
        hs.append((1 - zs[t]) * hs[t] + zs[t] * xs[t])
    loss = (hs[3] * hs[3]).sum() * (1 - keep)
    return locals()

def backward(xs, W, hs, zs, keep):
    d_hs, d_zs = [None] * 4, [None] * 3
    d_hs[3] = 2 * hs[3] * (1 - keep)
    d_W = torch.zeros_like(W)
    for t in reversed(range(3)):
        d_zs[t] = d_hs[t + 1] * (xs[t] - hs[t])
        inner = d_zs[t] * zs[t] * (1 - zs[t])
        d_W += xs[t].T @ inner
        d_hs[t] = d_hs[t + 1] * (1 - zs[t])
    return {"d_hs": d_hs, "d_zs": d_zs, "d_W": d_W}

def inputs(generator):
    shapes = {"xs": (3, 6, 4), "h0": (6, 4), "W": (4, 4)}
    return {k: torch.randn(s, generator=generator) for k, s in shapes.items()}
"""


@pytest.mark.parametrize(
    ("old", "new", "culprits", "kind", "words"),
    [
        ("inner = d_zs[t] * zs[t] * (1 - zs[t])", "inner = d_zs[t] * zs[t] * -zs[t]", ["W"], "wrong_point",
         "in `inner = d_zs[t] * zs[t] * -zs[t]`, `-zs[t]` stands where `1 - zs[t]` belongs"),
        ("d_hs[t + 1] * (1 - zs[t])", "d_hs[t + 1] * zs[t]", ["hs[2]"], "wrong_point",
         "`zs[t]` stands where `1 - zs[t]` belongs"),
        ("d_zs[t] * zs[t] *", "d_zs[t] * (1 - zs[t]) *", ["W"], "wrong_point",
         "`1 - zs[t]` stands where `zs[t]` belongs"),
        ("inner = d_zs[t] * zs[t] * (1 - zs[t])", "inner = d_zs[t] * zs[t]", ["W"], "wrong_point",
         "`zs[t]` stands where `zs[t] * (1 - zs[t])` belongs"),
        ("inner = d_zs[t] * zs[t] * (1 - zs[t])", "inner = d_zs[t] * (1 - zs[t])", ["W"], "wrong_point",
         "`1 - zs[t]` stands where `zs[t] * (1 - zs[t])` belongs"),
        ("* (1 - keep)\n    d_W", "* keep\n    d_W", ["hs[3]"], "scale", ""),
        # a near miss: a power
        ("inner = d_zs[t] * zs[t] * (1 - zs[t])", "inner = d_zs[t] * zs[t] ** 2 * (1 - zs[t])", ["W"],
         "wrong_point", "power"),
    ],
)  # fmt: skip
def test_half_of_a_sigmoids_derivative_is_told_from_its_complement(
    old: str, new: str, culprits: list[str], kind: str, words: str
) -> None:
    assert OVER_TIME.count(old) == 1
    report = backhand.check(from_text(OVER_TIME.replace(old, new)))
    assert sorted(row.name for row in report.culprits) == culprits
    for row in report.culprits:
        assert row.mistake.kind == kind, row.mistake
        assert words in row.mistake.message, row.mistake.message


def test_a_line_that_raises_for_want_of_its_upstream_gradient_is_told_so() -> None:
    wrong = altered(mlp_chunked, ("dbndiff = bnvar_inv * dbnraw", "dbndiff = bnvar_inv"))
    (culprit,) = backhand.check(wrong).culprits
    assert culprit.mistake.message.startswith(
        "dbndiff: dbnraw, the upstream gradient, is not used (the line "
    )


def test_no_edit_of_another_gradients_line_explains_a_gradient() -> None:
    # `xs[t] - hs[t + 1]` in the line of d_zs would make d_W right, for it is `(1 - zs[t]) * (xs[t] - hs[t])`
    wrong = OVER_TIME.replace("d_zs[t] * zs[t] * (1 - zs[t])", "d_zs[t] * zs[t].exp()")
    right_by_luck = wrong.replace("d_zs[t] * zs[t].exp()", "d_zs[t] * zs[t].clone()")
    (culprit,) = backhand.check(from_text(right_by_luck)).culprits
    assert "in `d_zs" not in culprit.mistake.message


@pytest.mark.parametrize("slip", ["1 - h", "-h**2", "h**2"])
def test_a_tanhs_derivative_is_told_from_parts_of_it(slip: str) -> None:
    wrong = altered(mlp_chunked, ("(1 - h**2) * dh", f"({slip}) * dh"))
    (culprit,) = backhand.check(wrong).culprits
    assert (culprit.name, culprit.mistake.kind) == ("hpreact", "wrong_point")
    used = slip.replace("**", " ** ")
    assert f"`{used}` stands where `1 - h ** 2` belongs." in culprit.mistake.message


MASKED = """
import torch

out = "y"

def forward(x):
    kept = x > 0
    y = torch.where(kept, x, 0.1 * x)
    return locals()

def backward(dy, kept):
    dx = dy.clone()
    dx[{mask}] *= 0.1
    return locals()

def inputs(generator):
    return {{"x": torch.randn(4, 5, generator=generator)}}
"""


@pytest.mark.parametrize(("mask", "right"), [("kept", "~kept"), ("~(~kept)", "~kept")])
def test_a_mask_of_the_other_half_is_named(mask: str, right: str) -> None:
    assert backhand.check(from_text(MASKED.format(mask=right))).ok
    found = backhand.check(from_text(MASKED.format(mask=mask)))["x"].mistake
    assert found.kind == "wrong_point"
    assert found.detail["expected"] == right


WEIGHTED = """
import torch

out = "y"

def forward(x, w):
    y = x * w
    return locals()

def backward(dy, x, w):
    dw = dy * x
    dx = dy * w
    {spoilt}
    return locals()

def inputs(generator):
    return {{name: torch.randn(4, 5, generator=generator) for name in ("x", "w")}}
"""


@pytest.mark.parametrize(
    ("spoilt", "is_partial"),
    [("dx[3] = 0", True), ("dx = dx + torch.arange(20.0).view(4, 5).cos(); dx[3] = 0", False)],
)
def test_zeros_in_one_row_do_not_explain_what_is_wrong_in_every_other_one(
    spoilt: str, is_partial: bool
) -> None:
    found = backhand.check(from_text(WEIGHTED.format(spoilt=spoilt)))["x"].mistake
    assert (found.kind == "partial") is is_partial


DELEGATING = """
import torch

def of_the_rows(dy, unit, size):
    along = (dy * unit).sum(1, keepdim=True)
    return (dy - along * unit) / size

class Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        size = x.square().sum(1, keepdim=True).sqrt()
        ctx.save_for_backward(x / size, size)
        return x / size

    @staticmethod
    def backward(ctx, dy):
        unit, size = ctx.saved_tensors
        return of_the_rows(dy, unit, size)

def reference(x):
    return x / x.norm(dim=1, keepdim=True)

def inputs(generator):
    return {"x": torch.randn(4, 5, generator=generator)}
"""


def test_the_line_of_a_function_that_a_backward_calls_is_shown_first(tmp_path: Path) -> None:
    path = tmp_path / "unit.py"
    path.write_text(DELEGATING)
    assert backhand.check_file(path).ok
    path.write_text(DELEGATING.replace("keepdim=True)\n    return", "keepdim=True) ** 2\n    return"))
    row = backhand.check_file(path)["x"]
    assert row.mistake.kind == "wrong_point"
    assert (row.lines[0].number, row.lines[0].text) == (5, "along = (dy * unit).sum(1, keepdim=True) ** 2")


LOGARITHMS = """
import torch

out = "logs"

def forward(x):
    return {"logs": torch.log_softmax(x, 1)}

def backward(dlogs, x, logs):
    return {"dx": dlogs - logs.exp() * dlogs.sum(1, keepdim=True)}

def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator)}
"""


@pytest.mark.parametrize(
    ("new", "words"),
    [("", "the factor logs.exp() is missing"), ("logs * ", "logs is used where logs.exp() belongs")],
)
def test_what_a_softmax_gave_is_known_where_only_its_logarithm_is_held(new: str, words: str) -> None:
    (culprit,) = backhand.check(from_text(LOGARITHMS.replace("logs.exp() * ", new))).culprits
    assert words in culprit.mistake.message


SELECTED = """
import torch

out = "y"

def forward(x, at):
    y = x.index_select(-1, at)
    return locals()

def backward(dy, x, at):
    dx = torch.zeros_like(x)
    dx[:, at] = dy
    return locals()

def inputs(generator):
    return {"x": torch.randn(3, 5, generator=generator), "at": torch.tensor([0, 2, 2, 4])}
"""


def test_columns_that_are_selected_twice_keep_one_of_their_gradients() -> None:
    (culprit,) = backhand.check(from_text(SELECTED)).culprits
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "overwritten"
    right = SELECTED.replace("dx[:, at] = dy", "dx.index_add_(-1, at, dy)")
    assert backhand.check(from_text(right)).ok
