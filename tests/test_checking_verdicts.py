"""Verdicts: shapes, missing gradients, vacuous rows, dtypes, containers, and what a forward may do."""

import json

import pytest
import torch

import backhand
from altered import altered, from_text
from backhand.errors import CheckError, WrongGradientError
from backhand.passes import batch_norm, mlp_chunked


def verdicts(report: backhand.Report) -> dict[str, str]:
    return {row.name: row.verdict for row in report.rows}


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


def test_the_default_dtype_is_put_back_even_after_an_error() -> None:
    def forward(x: torch.Tensor) -> dict:
        raise ValueError("no")

    with pytest.raises(CheckError, match="forward raised ValueError: no"):
        backhand.check(forward, lambda x: {}, inputs={"x": torch.randn(3)})
    assert torch.get_default_dtype() == torch.float32


def test_the_users_tensors_and_the_global_generator_are_left_alone() -> None:
    x = torch.randn(5, 4, requires_grad=True)
    inputs = {"x": x, "gain": torch.randn(4, requires_grad=True), "bias": torch.randn(4)}
    before, state = x.detach().clone(), torch.get_rng_state()
    report = backhand.check(batch_norm, inputs=inputs)
    assert torch.equal(x, before)
    assert x.grad is None
    assert torch.equal(torch.get_rng_state(), state)
    assert {row.name for row in report.rows if not row.forward_line} == {"x", "gain"}


def test_containers_are_flattened() -> None:
    text = """
def forward(x, w):
    layers = [x * w]
    layers.append(layers[0].tanh())
    cache = {"h": layers[1] * w}
    loss = cache["h"].sum()
    return locals()

def backward(x, w, layers, cache):
    dcache = {"h": 1 + 0 * x}
    dlayers = [0, dcache["h"] * w]
    dlayers[0] = (1 - layers[1] ** 2) * dlayers[1]
    dw = dcache["h"] * layers[1] + dlayers[0] * x
    dx = dlayers[0] * w
    return locals()
"""
    inputs = {"x": torch.randn(4), "w": torch.randn(4)}
    report = backhand.check(from_text(text), inputs=inputs)
    assert report.ok, str(report)
    assert {'cache["h"]', "layers[0]", "layers[1]"} <= set(verdicts(report))
    wrong = backhand.check(from_text(text.replace("layers[1] ** 2) *", "layers[1]) *")), inputs=inputs)
    assert [row.name for row in wrong.culprits] == ["layers[0]"]


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


def test_an_unmatched_gradient_is_listed_and_not_judged() -> None:
    report = backhand.check(altered(batch_norm, ("dmean / n", "dmean / n\n    dfoo = dx")))
    assert report.ok
    assert report.unmatched == ("dfoo",)


def test_gradients_may_be_named_with_an_underscore_or_by_a_mapping() -> None:
    def forward(x: torch.Tensor, w: torch.Tensor) -> dict:
        return {"y": x * w}

    def backward(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> dict:
        return {"d_x": dy * w, "gw": dy * x}

    inputs = {"x": torch.randn(3), "w": torch.randn(3)}
    assert backhand.check(forward, backward, inputs=inputs, out="y", names={"gw": "w"}).ok
    assert verdicts(backhand.check(forward, backward, inputs=inputs, out="y"))["w"] == "todo"


def test_a_report_is_plain_data_and_raises_when_asked() -> None:
    report = backhand.check(altered(batch_norm, ("dbias = dy.sum(0)", "dbias = -dy.sum(0)")))
    data = json.loads(json.dumps(report.to_dict()))
    assert data["ok"] is False
    assert data["culprits"] == ["bias"]
    assert next(r for r in data["rows"] if r["name"] == "bias")["mistake"]["kind"] == "sign"
    with pytest.raises(WrongGradientError, match="dbias"):
        report.raise_if_wrong()
    backhand.check(batch_norm).raise_if_wrong()


def test_explain_gives_the_rule_with_the_users_names() -> None:
    report = backhand.check(mlp_chunked)
    assert "tanh: dhpreact gets (1 - h ** 2) * dh" in report.explain("hpreact")
    assert "bndiff is used in 2 lines of the forward" in report.explain("dbndiff")


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


def scalar(x: torch.Tensor) -> dict:
    loss = (x * x).sum()
    return locals()


def untouched(x: torch.Tensor) -> dict:
    loss = torch.ones(())
    return locals()


@pytest.mark.parametrize(
    ("forward", "backward", "options", "message"),
    [
        (scalar, lambda y: {}, {}, "backward asks for 'y', which forward does not return"),
        (scalar, lambda losss: {}, {}, "did you mean loss"),
        (scalar, lambda x: 3, {}, "backward returned int"),
        (scalar, lambda x: {}, {"out": "y"}, "forward returns no 'y'"),
        (scalar, lambda x: {}, {"draws": 0}, "draws is 0"),
        (lambda x: x, lambda x: {}, {}, "forward returned Tensor"),
        (untouched, lambda x: {}, {}, "depends on no input"),
        (scalar, lambda x: {}, {"inputs": None}, "no inputs for forward"),
        (lambda x: {"loss": x}, lambda x: {}, {}, "expected a scalar"),
        ("text", lambda x: {}, {}, "expected a function"),
        (object(), None, {}, "has no forward and backward"),
    ],
)
def test_bad_parts_give_one_clear_line(forward, backward, options, message) -> None:
    with pytest.raises(CheckError, match=message) as caught:
        backhand.check(forward, backward, **{"inputs": {"x": torch.randn(3)}, **options})
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2
