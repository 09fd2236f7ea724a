"""Each deliberate mistake is caught, gives one culprit, the right one, and is named; its near miss is not."""

import pytest
import torch

import backhand
from altered import altered, from_text
from backhand.checking.mistakes import budget
from backhand.checking.running import alarms
from backhand.checking.running.alarms import awaited
from backhand.passes import (
    attention,
    batch_norm,
    embedding,
    gru_model,
    layer_norm,
    mlp_chunked,
    mlp_fused,
    rms_norm,
    rnn,
)

ONE_HOT = "dlogits += F.one_hot(logits.argmax(1), logits.shape[1]) * dlogit_maxes"


# (what to change in the lecture's backward, into what, the culprit, the kinds that name it rightly)
LECTURE = {
    "no counts_sum branch": ("dcounts += dcounts_sum", "pass", "counts", "missing_branch"),
    "no bndiff2 branch": ("dbndiff += 2 * bndiff * dbndiff2", "pass", "bndiff", "missing_branch"),
    "no logit_maxes branch": (ONE_HOT, "pass", "logits", "missing_branch"),
    "logit_maxes to the wrong column": ("logits.argmax(1), l", "logits.argmin(1), l", "logits", None),
    "db1 is zero": ("db1 = dhprebn.sum(0)", "db1 = torch.zeros(64)", "b1", "zero"),
    "dbngain lost keepdim": (
        "(bnraw * dhpreact).sum(0, keepdim=True)",
        "(bnraw * dhpreact).sum(0)",
        "bngain",
        "shape",
    ),
    "db2 has keepdim": ("dlogits.sum(0)", "dlogits.sum(0, keepdim=True)", "b2", "shape"),
    "n for n - 1": ("1 / (n - 1) * dbnvar", "1 / n * dbnvar", "bndiff2", "scale"),
    "a sign": ("dbnmeani = -dbndiff", "dbnmeani = dbndiff", "bnmeani", "sign"),
    "an un-summed bias": (
        "dhpreact.sum(0, keepdim=True)  # (1, n_hidden)",
        "dhpreact",
        "bnbias",
        "unreduced",
    ),
    "the wrong point": ("1 - h**2", "1 - hpreact**2", "hpreact", "wrong_point"),
    "no upstream": ("(1 - h**2) * dh", "(1 - h**2)", "hpreact", "wrong_upstream"),
    "an alias": ("dbndiff.clone()", "dbndiff", "bndiff", "aliased"),
    "a transpose": ("dW2 = h.T @ dlogits", "dW2 = dlogits.T @ h", "W2", "transposed"),
    "overwritten rows": (
        "torch.zeros_like(C).index_add_(0, Xb.flatten(), demb.flatten(0, 1))",
        "torch.zeros_like(C); dC[Xb] = demb",
        "C",
        "overwritten",
    ),
    "= for +=": (
        "dcounts += dcounts_sum",
        "dcounts = dcounts_sum.expand_as(counts)",
        "counts",
        "overwritten",
    ),
    "a mean without n": ("] = -1 / n", "] = -1", "logprobs", "scale"),
    "a line that raises": ("dh = dlogits @ W2.T", "dh = dlogits @ W2", "h", "transposed"),
    "an un-viewed embedding": ("dembcat.view(emb.shape)", "dembcat", "emb", "shape"),
    "an un-summed upstream": (
        "(counts * dprobs).sum(1, keepdim=True)",
        "counts * dprobs",
        "counts_sum_inv",
        "unreduced",
    ),
}


def lecture_needs_hpreact(change: tuple[str, str]) -> list[tuple[str, str]]:
    return [("    h: Tensor,\n", "    h: Tensor,\n    hpreact: Tensor,\n"), change]


@pytest.mark.parametrize("name", LECTURE)
def test_each_deliberate_mistake_in_the_lecture_gives_one_culprit_and_its_name(name: str) -> None:
    old, new, culprit, kind = LECTURE[name]
    report = backhand.check(altered(mlp_chunked, *lecture_needs_hpreact((old, new))))
    assert not report.ok
    assert [row.name for row in report.culprits] == [culprit]
    assert kind is None or report.culprits[0].mistake.kind == kind
    assert all(row.verdict != "wrong" for row in report.rows if row.name != culprit)


def test_the_lecture_and_every_textbook_pass_are_right() -> None:
    for module in (mlp_chunked, mlp_fused, attention, batch_norm, embedding, layer_norm, rms_norm, rnn):
        report = backhand.check(module)
        assert report.ok, str(report)
        assert not report.warnings


# (pass, what to change, into what, gradient, kind, then a near miss of the same line that is right)
NEAR = [
    (batch_norm, "dbias = dy.sum(0)", "dbias = -dy.sum(0)", "dbias = (-dy).sum(0).neg()", "bias", "sign"),
    (
        batch_norm,
        "dx = dcentered + dmean / n",
        "dx = dcentered",
        "dx = dmean / n + dcentered",
        "x",
        "missing_branch",
    ),
    (
        batch_norm,
        "dgain = (xhat * dy).sum(0)",
        "dgain = (xhat * dy).mean(0)",
        "dgain = n * (xhat * dy).mean(0)",
        "gain",
        "scale",
    ),
    (batch_norm, "dbias = dy.sum(0)", "dbias = dy", "dbias = torch.ones(n) @ dy", "bias", "unreduced"),
    (
        batch_norm,
        "dxhat = gain * dy",
        "dxhat = (gain * dy).mean(0).expand_as(dy)",
        "dxhat = dy * gain",
        "xhat",
        "overreduced",
    ),
    (
        batch_norm,
        "dbias = dy.sum(0)",
        "dbias = dy.sum(0)[None]",
        "dbias = dy.sum(0)[None][0]",
        "bias",
        "shape",
    ),
    (
        attention,
        "dq = scale * dscores @ k",
        "dq = scale * dscores.mT @ k",
        "dq = scale * dscores.mT.mT @ k",
        "q",
        "transposed",
    ),
    (
        attention,
        "dv = weights.transpose(-2, -1) @ dy",
        "dv = (weights.mT @ dy).flip(0)",
        "dv = weights.mT @ dy",
        "v",
        None,
    ),
    (
        batch_norm,
        "dxhat = gain * dy",
        "dxhat = gain * dy\n    dxhat = gain * xhat",
        "dxhat = gain.expand_as(dy) * dy",
        "xhat",
        "wrong_upstream",
    ),
    (
        batch_norm,
        "dgain = (xhat * dy)",
        "dgain = (centered * dy)",
        "dgain = (centered * inv_std * dy)",
        "gain",
        "wrong_point",
    ),
    (batch_norm, "dcentered += 2 * c", "dcentered += 4 * c", "dcentered += 2 * 1 * c", "centered", "scale"),
    (
        batch_norm,
        "dx = dcentered + dmean / n",
        "dx = dcentered\n    dx += dmean",
        "dx = dcentered.clone()\n    dx += dmean / n",
        "centered",
        "aliased",
    ),
    (
        batch_norm,
        "dx = dcentered + dmean / n",
        "dx = dcentered + dmean / n\n    dx[-2:] = 0",
        "dx = dcentered + dmean / n\n    dx[-2:] *= 1",
        "x",
        "partial",
    ),
    (
        batch_norm,
        "dx = dcentered + dmean / n",
        "dx = dcentered + dmean / n + dmean / n",
        "dx = dcentered + dmean / n + 0 * dmean",
        "x",
        "repeated_branch",
    ),
    (
        embedding,
        "dtable.index_add_(0, tokens.flatten(), dword.flatten(0, 1))",
        "dtable[tokens] = dword",
        "dtable.index_put_((tokens,), dword, accumulate=True)",
        "table",
        "overwritten",
    ),
    (
        batch_norm,
        "dgain = (xhat * dy).sum(0)",
        "dgain = torch.zeros(4)",
        "dgain = torch.zeros(4) + (xhat * dy).sum(0)",
        "gain",
        "zero",
    ),
    (
        batch_norm,
        "dgain = (xhat * dy).sum(0)",
        "dgain = (xhat * dy).sum(0) / 0",
        "dgain = (xhat * dy).sum(0) / 1",
        "gain",
        "nonfinite",
    ),
    (
        batch_norm,
        "dgain = (xhat * dy).sum(0)",
        "dgain = torch.sin(dy).cumsum(0)[3]",
        "dgain = torch.einsum('ij,ij->j', xhat, dy)",
        "gain",
        "unexplained",
    ),
    (
        rnn,
        "dWhy += hs[t].T @ dys[t]",
        "dWhy = hs[t].T @ dys[t]",
        "dWhy = dWhy + hs[t].T @ dys[t]",
        "Why",
        "overwritten",
    ),
    (rms_norm, "-0.5 * r**3 * dr", "-0.5 * r**2 * dr", "-0.5 * r * r * r * dr", "ms", "wrong_point"),
    (
        layer_norm,
        "dx = dxhat - dxhat.mean(-1, keepdim=True) - ",
        "dx = dxhat - ",
        "dx = -dxhat.mean(-1, keepdim=True) + dxhat - ",
        "x",
        "missing_branch",
    ),
]


@pytest.mark.parametrize("case", NEAR, ids=lambda c: f"{c[5]} {c[4]}")
def test_a_mistake_is_named_and_a_right_near_miss_is_not(case: tuple) -> None:
    module, line, wrong, right, name, kind = case
    report = backhand.check(altered(module, (line, wrong)), stress=False)
    blamed = {row.name: row.mistake.kind for row in report.culprits}
    assert name in blamed
    assert kind is None or blamed[name] == kind
    near = backhand.check(altered(module, (line, right)), stress=False)
    assert near.ok, str(near)


def test_swapped_gradients_are_each_told_from_the_other() -> None:
    to_q, to_k = "dq = scale * dscores @ k", "dk = scale * dscores.transpose(-2, -1) @ q"
    exchanged = (to_q, "dk" + to_q[2:]), (to_k, "dq" + to_k[2:])
    wrong = altered(attention, *exchanged)
    report = backhand.check(wrong)
    assert {row.name: row.mistake.kind for row in report.culprits} == {"q": "swapped", "k": "swapped"}
    assert report["q"].mistake.detail == {"with": "dk"}


def test_exchanged_lines_are_told_though_one_of_them_is_the_first_of_two_and_the_next_raises() -> None:
    to_diff, to_square = "dbndiff = bnvar_inv", "dbndiff2 = (1 / (n - 1)"
    exchanged = (to_diff, "dbndiff2" + to_diff[7:]), (to_square, "dbndiff" + to_square[8:])
    report = backhand.check(altered(mlp_chunked, *exchanged))
    assert report.raised is not None
    found = {row.name: (row.mistake.kind, row.mistake.detail["with"]) for row in report.culprits}
    assert found == {"bndiff": ("swapped", "dbndiff2"), "bndiff2": ("swapped", "dbndiff")}


def test_a_change_in_place_that_raises_is_told_as_one() -> None:
    (row,) = backhand.check(altered(mlp_chunked, ("bnvar_inv * dbnraw", "bnvar_inv.mul_(dbnraw)"))).culprits
    assert (row.name, row.mistake.kind) == ("bndiff", "modifies_input")


def test_a_gradient_that_is_read_before_its_last_branch_is_there_is_told_by_that_branch() -> None:
    last, reads = "    dhprebn += 1 / n * dbnmeani  #", "    dW1 = embcat.T @ dhprebn  #"
    early = altered(mlp_chunked, (reads, "    pass  #"), (last, "    " + reads.strip("# ") + f"\n{last}"))
    (row,) = backhand.check(early).culprits
    assert (row.name, row.mistake.kind) == ("W1", "missing_branch")
    assert "in what arrives at hprebn, the branch through bnmeani is missing" in row.mistake.message


GATES = """
import torch

out = ("y", "c")

def forward(x, W, c0):
    z = x @ W
    zi, zf, zo = z.split(4, 1)
    i, f, o = torch.sigmoid(zi), torch.sigmoid(zf), torch.sigmoid(zo)
    c = f * c0 + i
    t = torch.tanh(c)
    y = o * t
    return locals()

def backward(dy, dc, x, W, c0, i, f, o, t):
    do = dy * t
    dt = dy * o
    total = dc + (1 - t**2) * dt
    di = total
    df = c0 * total
    dc0 = f * total
    dzi = i * (1 - i) * di
    dzf = f * (1 - f) * df
    dzo = o * (1 - o) * do
    dz = torch.cat([dzi, dzf, dzo], 1)
    dx = dz @ W.T
    dW = x.T @ dz
    return locals()

def inputs(generator):
    shapes = {"x": (5, 3), "W": (3, 12), "c0": (5, 4)}
    return {k: torch.randn(s, generator=generator) for k, s in shapes.items()}
"""


@pytest.mark.parametrize(
    ("old", "new", "culprit", "kind"),
    [
        ("do = dy * t", "do = dc * t", "o", "wrong_upstream"),
        ("dzf = f * (1 - f) * df", "dzf = o * (1 - o) * df", "zf", "wrong_point"),
        ("dzi = i * (1 - i)", "dzi = -i * (1 - i)", "zi", "sign"),
        ("dc0 = f * total", "dc0 = f * (total - dc)", "c0", "missing_branch"),
        ("[dzi, dzf, dzo]", "[dzi, dzo, dzf]", "z", "partial"),
    ],
)
def test_an_operation_with_several_outputs_and_a_state(old: str, new: str, culprit: str, kind: str) -> None:
    assert backhand.check(from_text(GATES)).ok
    report = backhand.check(from_text(GATES.replace(old, new)))
    assert [row.name for row in report.culprits] == [culprit]
    assert report.culprits[0].mistake.kind == kind


@pytest.mark.parametrize(("kept", "lost"), [("6 * a**2 * dcube", "total"), ("dtotal", "cube")])
def test_a_forward_may_use_custom_functions_of_several_results(kept: str, lost: str) -> None:
    text = """
import torch

class CubeAndTotal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, k):
        ctx.save_for_backward(x)
        ctx.k = k
        return k * x**3, x.sum(0)

    @staticmethod
    def backward(ctx, dcube, dtotal):
        (x,) = ctx.saved_tensors
        return 3 * ctx.k * x**2 * dcube + dtotal, None

def forward(x, w):
    a = x * w
    cube, total = CubeAndTotal.apply(a, 2.0)
    low, high = (cube + total).split(2, 1)
    y = low * high
    return locals()

def backward(dy, x, w, a, low, high):
    dlow = dy * high
    dhigh = dy * low
    dcube = torch.cat([dlow, dhigh], 1)
    dtotal = dcube.sum(0)
    da = 6 * a**2 * dcube + dtotal
    dx = da * w
    dw = (da * x).sum(0)
    return locals()
"""
    inputs = {"x": torch.randn(3, 4), "w": torch.randn(4)}
    right = from_text(text)
    assert backhand.check(right, inputs=inputs, out="y").ok
    wrong = from_text(text.replace("da = 6 * a**2 * dcube + dtotal", f"da = {kept}"))
    (culprit,) = backhand.check(wrong, inputs=inputs, out="y").culprits
    assert (culprit.name, culprit.mistake.kind) == ("a", "missing_branch")
    assert culprit.mistake.detail["branches"] == [lost]


def test_two_mistakes_give_two_culprits() -> None:
    wrong = altered(
        mlp_chunked, ("1 / (n - 1) * dbnvar", "1 / n * dbnvar"), ("dcounts += dcounts_sum", "pass")
    )
    report = backhand.check(wrong)
    assert {row.name: row.mistake.kind for row in report.culprits} == {
        "counts": "missing_branch",
        "bndiff2": "scale",
    }


def test_without_source_the_hooks_alone_find_the_line() -> None:
    text = """
def forward(x, w):
    u = x @ w
    h = u.tanh()
    loss = (h * h).sum()
    return locals()

def backward(h, x, w):
    dh = 2 * h
    du = -(1 - h**2) * dh
    dw = x.T @ du
    dx = du @ w.T
    return locals()
"""
    module: dict = {}
    exec(text, module)
    x, w = torch.randn(3, 4), torch.randn(4, 5)
    report = backhand.check(module["forward"], module["backward"], inputs={"x": x, "w": w})
    assert [(r.name, r.mistake.kind, r.lines) for r in report.culprits] == [("u", "sign", ())]
    assert report["w"].verdict == "follows"


def test_a_fused_formula_beside_the_chunked_one_is_no_mistake() -> None:
    fused = "dlogits = (F.softmax(logits, 1) - F.one_hot(Yb, logits.shape[1])) / n"
    report = backhand.check(
        altered(mlp_chunked, ("dlogits = dnorm_logits.clone()", "pass"), (ONE_HOT, fused))
    )
    assert report.ok, str(report)
    assert not report.warnings


def test_a_line_that_raises_within_a_loop_is_the_only_culprit() -> None:
    report = backhand.check(altered(rnn, ("dWhy += hs[t].T @ dys[t]", "dWhy += hs[t] @ dys[t]")))
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("Why", "transposed")]
    assert report.raised is not None


def test_the_gradient_of_a_loss_is_1_and_nothing_has_to_read_it() -> None:
    def forward(x: torch.Tensor, w: torch.Tensor) -> dict[str, torch.Tensor]:
        u = x * w
        loss = (u**3).sum()
        return locals()

    def backward(x: torch.Tensor, w: torch.Tensor) -> dict[str, torch.Tensor]:
        t = torch.sin(9 * x).cumsum(0)
        dx = t.flip(0) + t.cumsum(0) * w
        return {"dx": dx}

    report = backhand.check(forward, backward, inputs={"x": torch.rand(5) + 0.5, "w": torch.rand(5)})
    assert report["x"].mistake is not None
    assert report["x"].mistake.kind == "unexplained"


def test_when_the_time_is_up_it_is_said_and_nothing_counts_as_ruled_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_time = backhand.check(altered(mlp_chunked, ("] = -1 / n", "] = -1.234 / n")))["logprobs"].mistake
    assert in_time.kind == "scale"
    monkeypatch.setattr(budget, "SECONDS", 0.0)
    late = backhand.check(altered(mlp_chunked, ("] = -1 / n", "] = -1.234 / n")))["logprobs"].mistake
    assert late.kind == "unexplained"
    assert "no simple slip was found in the time for it" in late.message
    assert late.detail["ruled_out"] == []


def test_who_waits_for_a_verdict_is_not_kept_waiting_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = altered(mlp_chunked, ("] = -1 / n", "] = -1.234 / n"))
    with awaited(60.0):
        assert backhand.check(wrong)["logprobs"].mistake.kind == "scale"
    with awaited(0.0):
        assert backhand.check(wrong)["logprobs"].mistake.kind == "scale"  # a little is always left
        monkeypatch.setattr(alarms, "LITTLE", 0.0)
        row = backhand.check(wrong)["logprobs"]
    assert "in the time for it" in row.mistake.message
    assert "-1.234 / n" in row.lines[0].text


@pytest.mark.parametrize("above", ["", "n = 2 * x.shape[1]\n    "])
def test_zeros_that_are_filled_later_are_not_said_to_be_the_gradient(above: str) -> None:
    changed = from_text(f"""
import torch

out = "y"


def forward(x):
    y = x**2
    return locals()


def backward(dy, x):
    {above}dx = torch.zeros_like(x)
    for i in range(0, len(x) - 1, 2):
        dx[i : i + 2] = 2 * x[i : i + 2] * dy[i : i + 2]
    return locals()


def inputs(generator):
    return {{"x": torch.randn(5, 3, generator=generator)}}
""")
    (row,) = backhand.check(changed).culprits
    assert "in `range(0, len(x) - 1, 2)`, `len(x) - 1` stands where `len(x)` belongs" in row.mistake.message


BEFORE_A_LOOP = """
import torch

out = "y"

def forward(x, w, gain):
    state, states = x, []
    for _ in range(3):
        states.append(state)
        state = torch.tanh(state @ w)
    y = state * gain
    return locals()

def backward(dy, w, gain, states, state):
    dgain = (dy * state).sum(0)
    carried = dy * gain
    dw = torch.zeros_like(w)
    after = state
    for before in reversed(states):
        inner = carried * (1 - after**2)
        dw += before.T @ inner
        carried = inner @ w.T
        after = before
    dx = carried
    return {"dx": dx, "dw": dw, "dgain": dgain}

def inputs(generator):
    x, w, gain = (torch.randn(s, generator=generator) for s in ((5, 4), (4, 4), (4,)))
    return {"x": x, "w": w, "gain": gain}
"""


def test_a_factor_that_is_missing_above_a_loop_is_named() -> None:
    report = backhand.check(from_text(BEFORE_A_LOOP.replace("dy * gain", "dy")), stress=False)
    (row,) = report.culprits
    assert row.mistake.kind == "wrong_point"
    assert "in `carried = dy`, the factor gain is missing" in row.mistake.message
    assert row.lines[0].text == "carried = dy"


def test_what_a_loop_begins_with_is_at_fault_and_not_the_line_that_gives_it_another_name() -> None:
    renamed = BEFORE_A_LOOP.replace("carried", "dlater").replace(
        "inner = dlater", "dstate = dlater\n        inner = dstate"
    )
    assert backhand.check(from_text(renamed), stress=False).ok
    wrong = renamed.replace("dlater = dy * gain", "dlater = state")
    (row,) = backhand.check(from_text(wrong), stress=False).culprits
    assert row.lines[0].text == "dlater = state"


def test_a_change_in_place_within_a_loop_is_no_wrong_sign() -> None:
    (row,) = backhand.check(
        altered(gru_model, ("r[:, t] * (1 - r[:, t])", "r[:, t].mul_(1 - r[:, t])"))
    ).culprits
    assert row.mistake.kind == "modifies_input"
    assert row.lines[0].text.startswith("reset = r[:, t].mul_(")


SEGMENTS = """
import torch

def forward(x, segment):
    e = x.exp()
    z = torch.zeros(3, dtype=x.dtype).index_add(0, segment, e)
    p = e / z[segment]
    return locals()

def backward(dp, p, segment):
    inner = torch.zeros(3, dtype=p.dtype)
    inner[segment] = dp * p
    dx = p * (dp - inner[segment])
    return {"dx": dx}

out = "p"

def inputs(generator):
    return {"x": torch.randn(7, generator=generator), "segment": torch.tensor([0, 1, 0, 2, 2, 0, 1])}
"""


def test_rows_that_are_made_of_some_of_the_others_are_not_said_to_be_made_of_all() -> None:
    (row,) = backhand.check(from_text(SEGMENTS), stress=True).culprits
    assert row.mistake is not None
    assert "all of dp" not in row.mistake.message


CENTRED = """
import torch

def forward(x, mask):
    mean = (x * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)
    y = (x - mean) * mask
    return locals()

def backward(dy, x, mask):
    dx = dy.clone()
    dx = dx * mask
    dx = dx - mask * dx.sum(-1, keepdim=True) / x.shape[-1]
    return {"dx": dx}

out = "y"

def inputs(generator):
    mask = torch.tensor([[1.0, 1, 1, 0, 1], [1, 0, 1, 1, 0], [0, 1, 1, 0, 0]])
    return {"x": torch.randn(3, 5, generator=generator).requires_grad_(), "mask": mask}
"""


def test_a_branch_that_is_there_with_a_wrong_factor_is_not_said_to_be_missing() -> None:
    (row,) = backhand.check(from_text(CENTRED)).culprits
    assert row.mistake is not None
    assert "is missing" not in row.mistake.message
