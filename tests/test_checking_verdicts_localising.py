"""Verdicts: shapes, missing gradients, vacuous rows, dtypes, containers, and what a forward may do."""

import pytest
import torch

import backhand
from altered import altered, verdicts
from backhand.passes import batch_norm, mlp_chunked


def test_an_input_without_a_gradient_is_todo_and_an_intermediate_is_skipped() -> None:
    module = altered(
        batch_norm, ("dbias = dy.sum(0)  # (k,)", "dbias = ..."), ("dmean / n", "(-dcentered.mean(0))")
    )
    report = backhand.check(module)
    assert not report.ok
    assert report["bias"].verdict == "todo"
    left_out = altered(
        batch_norm,
        ("dmean = -dcentered.sum(0, keepdim=True)", "shift = -dcentered.sum(0)"),
        ("dmean / n", "shift / n"),
    )
    report = backhand.check(left_out)
    assert report.ok
    assert report["mean"].verdict == "skipped"


def test_a_bias_before_batch_norm_is_vacuous_and_no_fault() -> None:
    report = backhand.check(mlp_chunked)
    assert {name for name, verdict in verdicts(report).items() if verdict == "vacuous"} == {
        "b1",
        "logit_maxes",
    }
    assert report.ok


def test_everything_below_a_culprit_follows_and_everything_above_is_right() -> None:
    report = backhand.check(altered(mlp_chunked, ("(1 - h**2) * dh", "(1 - h) * dh")))
    found = verdicts(report)
    assert found["hpreact"] == "wrong"
    assert {found[n] for n in ("bnraw", "bngain", "hprebn", "W1", "C")} == {"follows"}
    assert {found[n] for n in ("logits", "h", "W2", "probs")} == {"right"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_right_backward_is_right_in_every_dtype(dtype: torch.dtype) -> None:
    drawn = batch_norm.inputs(torch.Generator().manual_seed(3))
    report = backhand.check(batch_norm, inputs={k: v.to(dtype) for k, v in drawn.items()})
    assert report.ok, str(report)
    assert report.precision == "float64"
    assert report["x"].dtype == str(dtype).removeprefix("torch.")


def test_code_that_insists_on_float32_is_judged_in_float64_all_the_same() -> None:
    module = altered(batch_norm, ("dxhat = gain * dy", "dxhat = (gain.float() * dy.float()).float()"))
    report = backhand.check(module, stress=False)
    assert report.ok
    assert report.precision == "float64"


def test_a_right_line_that_raises_in_float64_only_is_no_fault() -> None:
    def forward(C, Xb):
        emb = C[Xb]
        loss = emb.square().mean()
        return locals()

    def backward(C, Xb, emb):
        demb = 2 * emb / emb.numel()
        one_hot = torch.nn.functional.one_hot(Xb, C.shape[0]).float()
        dC = (one_hot.transpose(1, 2) @ demb).sum(0)
        return locals()

    drawn = {"C": torch.randn(5, 3), "Xb": torch.randint(0, 5, (7, 2))}
    report = backhand.check(forward, backward, inputs=drawn)
    assert report.ok, str(report)
    assert report["C"].verdict == "right"


def test_a_bare_in_place_call_changes_its_own_tensor_alone() -> None:
    def forward(x):
        a = 2 * x
        b = 3 * x
        y = a * b
        return locals()

    def backward(dy, x, a, b):
        da = dy * b
        db = dy * a
        dx = 2 * da
        dx.add_(db, alpha=3)
        return locals()

    report = backhand.check(forward, backward, inputs={"x": torch.arange(1.0, 4.0)}, out="y")
    assert report.ok
    assert [len(report[name].lines) for name in ("a", "b", "x")] == [1, 1, 2]


@pytest.mark.filterwarnings("error")
def test_infinite_and_undefined_gradients_must_be_the_same() -> None:
    def forward(x, w):
        a = x.log()
        y = a * w
        return locals()

    def backward(dy, x, w, a):
        dw = dy * a
        da = dy * w
        dx = da / x
        return locals()

    inputs = {"x": torch.tensor([0.0, 1.0, -1.0, torch.inf]), "w": torch.ones(4)}
    report = backhand.check(forward, backward, inputs=inputs, out="y", stress=False)
    assert verdicts(report) == {"a": "right", "w": "right", "x": "right"}
    assert report["w"].exact
    assert report["w"].approximate

    def off_beside_them(dy, x, w, a):
        dw = dy * a + (x == 1)
        return {**backward(dy, x, w, a), "dw": dw}

    def finite_instead(dy, x, w, a):
        dw = torch.where(x == 0, 0.0, dy * a)
        return {**backward(dy, x, w, a), "dw": dw}

    for wrong in (off_beside_them, finite_instead):
        report = backhand.check(forward, wrong, inputs=inputs, out="y", stress=False)
        assert [row.name for row in report.culprits] == ["w"]
        assert not report["w"].approximate

    def guarded(dy, x, w, a):
        dx = dy * w / x.clamp(min=1e-3)
        return {**backward(dy, x, w, a), "dx": dx}

    inputs = {"x": torch.tensor([torch.inf, 4.0, 0.0]), "w": torch.ones(3)}
    assert backhand.check(forward, backward, inputs=inputs, out="y", stress=False).ok
    report = backhand.check(forward, guarded, inputs=inputs, out="y", stress=False)
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("x", "nonfinite")]
    message = report["x"].mistake.message
    assert message.startswith("dx: finite where the right gradient is not. Expected ")
    assert message.endswith(" at [2].")
    assert report.sheet.pictures["x"].numbers.worst == (2,)


def test_several_outputs_a_tensor_used_twice_and_a_scalar() -> None:
    def forward(x: torch.Tensor, a: torch.Tensor) -> dict:
        u = a * x
        y = u * u
        state = u.sum() + x.sum()
        return locals()

    def backward(dy, dstate, x, a, u):
        du = 2 * u * dy + dstate
        da = (du * x).sum()
        dx = a * du + dstate
        return locals()

    inputs = {"x": torch.randn(3, 2), "a": torch.randn(())}
    report = backhand.check(forward, backward, inputs=inputs, out=("y", "state"))
    assert report.ok, str(report)
    assert report["a"].shape == ()


def test_a_forward_may_change_its_input_and_others_in_place() -> None:
    def forward(x: torch.Tensor, w: torch.Tensor) -> dict:
        x += 1
        h = x * w
        h[0] = 0
        y = h * 2
        return locals()

    def backward(dy, x, w):
        dh = 2 * dy
        dproduct = dh.clone()
        dproduct[0] = 0
        dx, dw = dproduct * w, dproduct * x
        return {"dh": dh, "dx": dx, "dw": dw}

    inputs = {"x": torch.randn(3, 2), "w": torch.randn(3, 2)}
    assert backhand.check(forward, backward, inputs=inputs, out="y").ok


def test_a_name_that_is_assigned_again_is_said_and_not_held_against_anyone() -> None:
    def forward(x: torch.Tensor, w: torch.Tensor) -> dict:
        h = x
        for _ in range(3):
            h = torch.tanh(h * w)
        loss = h.sum()
        return locals()

    def backward(x: torch.Tensor, w: torch.Tensor) -> dict:
        hs = [x]
        for _ in range(3):
            hs.append(torch.tanh(hs[-1] * w))
        dh = torch.ones_like(x)
        dw = torch.zeros_like(w)
        for i in reversed(range(3)):
            dz = (1 - hs[i + 1] ** 2) * dh
            dw += dz * hs[i]
            dh = dz * w
        dx = dh
        return locals()

    report = backhand.check(forward, backward, inputs={"x": torch.randn(4), "w": torch.randn(4)})
    assert report.ok, str(report)
    assert report["h"].verdict == "skipped"
    assert any("more than once" in note for note in report.notes)


def test_a_loss_that_does_not_depend_on_an_input_leaves_it_vacuous() -> None:
    def forward(x: torch.Tensor, w: torch.Tensor) -> dict:
        loss = (x * x).sum()
        return locals()

    inputs = {"x": torch.randn(3), "w": torch.randn(2)}
    report = backhand.check(forward, lambda x: {"dx": 2 * x}, inputs=inputs)
    assert report["w"].verdict == "vacuous"
    assert report.ok
    wrong = backhand.check(forward, lambda x: {"dx": 2 * x, "dw": torch.ones(2)}, inputs=inputs)
    assert [row.name for row in wrong.culprits] == ["w"]


def test_a_gradient_found_wrong_on_a_later_draw_alone_is_wrong() -> None:
    def forward(x: torch.Tensor) -> dict:
        loss = torch.relu(x).sum()
        return locals()

    drawn = iter([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0]), torch.tensor([-1.0, 2.0])])
    report = backhand.check(
        forward, lambda x: {"dx": torch.ones_like(x)}, inputs=lambda generator: {"x": next(drawn)}
    )
    assert [row.name for row in report.culprits] == ["x"]
    assert report.draws == 3


@pytest.mark.parametrize(
    ("line", "name"), [("dh = dlogits @ W2.T", "h"), ("dprobs = dlogprobs / probs", "probs")]
)
def test_lines_that_fail_for_a_gradient_left_at_none_are_no_culprits(line: str, name: str) -> None:
    report = backhand.check(altered(mlp_chunked, (line, f"d{name} = None")))
    assert report.raised is not None
    assert [(row.name, row.mistake and row.mistake.kind) for row in report.culprits] == [(name, "zero")]


def test_a_gradient_that_is_none_until_a_line_asks_for_it_is_no_culprit() -> None:
    filled = "dh = None\n    if dh is None:\n        dh = dlogits @ W2.T"
    wrong = ("(1 - h**2) * dh", "undefined * dh")
    report = backhand.check(altered(mlp_chunked, ("dh = dlogits @ W2.T", filled), wrong))
    assert [row.name for row in report.culprits] == ["hpreact"]


def tanh_of_affine(x, w, b):
    h = x @ w
    a = torch.tanh(h + b)
    y = a * a
    return locals()


def in_a_display(dy, x, w, a):
    dz = 2 * dy * a * (1 - a**2)
    grads = {"dw": x.T @ dz}
    grads["db"] = dz.mean(0)
    return {**grads, "dx": dz @ w.T}


def in_a_union(dy, x, w, a):
    dz = 2 * dy * a * (1 - a**2)
    grads = {"dw": x.T @ dz}
    grads["db"] = dz.mean(0)
    return grads | {"dx": dz @ w.T}


def in_a_call(dy, x, w, a):
    dz = 2 * dy * a * (1 - a**2)
    grads = {"dw": x.T @ dz}
    grads["db"] = dz.mean(0)
    return dict(grads, dx=dz @ w.T)


@pytest.mark.parametrize("backward", [in_a_display, in_a_union, in_a_call])
def test_a_line_is_shown_where_the_returned_dictionary_is_put_together(backward):
    report = backhand.check(
        tanh_of_affine,
        backward,
        inputs=lambda g: {
            n: torch.randn(s, generator=g) for n, s in (("x", (5, 3)), ("w", (3, 4)), ("b", 4))
        },
        out="y",
    )
    (row,) = report.culprits
    assert (row.name, row.mistake.kind) == ("b", "scale")
    assert row.lines[0].text == 'grads["db"] = dz.mean(0)'
