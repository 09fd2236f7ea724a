"""Verdicts: shapes, missing gradients, vacuous rows, dtypes, containers, and what a forward may do."""

import gc
import json
import weakref

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


def test_small_tensors_are_left_to_one_thread_and_the_number_is_put_back() -> None:
    seen: list[int] = []

    def forward(x):
        seen.append(torch.get_num_threads())
        y = 2 * x
        return locals()

    def backward(dy):
        dx = 2 * dy
        return locals()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        backhand.check(forward, backward, inputs={"x": torch.ones(256, 256)}, out="y", stress=False)
        small = set(seen)
        seen.clear()
        backhand.check(forward, backward, inputs={"x": torch.ones(256, 257)}, out="y", stress=False)
        assert (small, set(seen)) == ({1}, {2})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


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


def test_arguments_that_are_changed_on_some_draws_only_spoil_nothing() -> None:
    def forward(x, w):
        h = (x * w).tanh()
        y = h * w
        return locals()

    def backward(dy, x, w, h):
        dh = dy * w
        if x[0] < 0:
            h *= 2
        slope = dh * (1 - h**2)
        dx = slope * w
        dw = slope * x + dy * h
        return locals()

    def of(*signs):
        remaining = iter(signs)

        def inputs(generator):
            x = torch.rand(4, generator=generator) * next(remaining)
            return {"x": x, "w": 1 + torch.rand(4, generator=generator)}

        return inputs

    report = backhand.check(forward, backward, inputs=of(1, -1), out="y", draws=2, stress=False)
    told = [row.mistake.message.split(".")[0] for row in report.culprits]
    assert told == [f"{gradient}: in `h *= 2`, a factor is off at `2`" for gradient in ("dw", "dx")]


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


def test_d_and_the_name_comes_before_an_underscore_and_that_before_a_mapping() -> None:
    def forward(x: torch.Tensor) -> dict:
        return {"y": 2 * x}

    def check(*names: str) -> str:
        """The first of these names holds the right gradient, the others wrong ones."""
        returned = dict.fromkeys(names)

        def backward(dy: torch.Tensor) -> dict:
            return {n: (2 if n == names[0] else 17) * dy for n in sorted(returned)}

        report = backhand.check(forward, backward, inputs={"x": torch.randn(3)}, out="y", names={"g": "x"})
        assert report["x"].gradient == min(names, key=["dx", "d_x", "g"].index)
        return report["x"].verdict

    assert check("dx", "d_x", "g") == check("d_x", "g") == check("g") == "right"
    assert check("d_x", "dx") == check("g", "d_x") == "wrong"


def test_given_inputs_are_varied_and_keep_their_signs_and_zeros_but_for_those_of_all_zeros() -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def forward(x: torch.Tensor, bias: torch.Tensor, index: torch.Tensor) -> dict:
        seen.append({"x": x.detach().double(), "bias": bias.detach().double(), "index": index})
        return {"y": x[index] + bias}

    def backward(dy: torch.Tensor, x: torch.Tensor, index: torch.Tensor) -> dict:
        return {"dx": torch.zeros_like(x).index_add(0, index, dy), "dbias": dy.sum(0)}

    x = torch.randn(40, 3)
    x[5], x[7] = 0, torch.tensor([1e-3, -1e3, 1e-3])
    inputs = {"x": x, "bias": torch.zeros(3), "index": torch.tensor([0, 4, 5, 5])}
    assert backhand.check(forward, backward, inputs=inputs, out="y", draws=5).ok
    different = {tuple(s["x"].float().flatten().tolist()) for s in seen}
    assert len(different) == 5
    for given in seen:
        assert torch.equal(given["x"].sign(), x.double().sign())
        assert torch.equal(given["index"], inputs["index"])
        assert ((given["x"] - x).abs() <= 0.25 * x.abs()).all(), "in the neighbourhood"
        if torch.equal(given["x"].float(), x):
            assert not given["bias"].any(), "the first draw is what was given"
        else:
            assert given["bias"].all(), "zeros hide mistakes"
            assert (given["bias"].abs() < 0.1).all()


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


@pytest.mark.parametrize(("dtype", "runs"), [(torch.float32, 4), (torch.float64, 3)])
def test_a_right_pass_is_run_once_for_each_draw_and_once_in_its_own_dtype(
    dtype: torch.dtype, runs: int
) -> None:
    calls = {"forward": 0, "backward": 0}

    def forward(x: torch.Tensor, b: torch.Tensor) -> dict:
        calls["forward"] += 1
        z = x + b
        centered = z - z.mean(0)
        loss = centered.square().sum()
        return locals()

    def backward(centered: torch.Tensor) -> dict:
        calls["backward"] += 1
        dcentered = 2 * centered
        dz = dcentered - dcentered.mean(0)
        db = dz.sum(0)
        dx = dz
        return locals()

    inputs = {"x": torch.randn(6, 3, dtype=dtype), "b": torch.randn(3, dtype=dtype)}
    report = backhand.check(forward, backward, inputs=inputs)
    assert report.ok, str(report)
    assert report["b"].verdict == "vacuous"
    assert report.draws == 3
    twice = 2  # to see when each gradient is complete, and with random ones in place of those that cancel
    assert calls == {"forward": runs, "backward": runs + twice}


def test_a_report_keeps_no_graph_alive() -> None:
    nodes = []

    def forward(x: torch.Tensor, w: torch.Tensor) -> dict:
        h = torch.tanh(x * w)
        nodes.append(weakref.ref(h))
        y = 2 * h
        return locals()

    def backward(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, h: torch.Tensor) -> dict:
        dh = 2 * dy
        dz = (1 - h**2) * dh
        return {"dh": dh, "dx": dz * w, "dw": dz * x}

    report = backhand.check(forward, backward, inputs={"x": torch.randn(4), "w": torch.randn(4)}, out="y")
    assert report.ok, str(report)
    gc.collect()
    assert [ref() for ref in nodes] == [None] * len(nodes)
    assert "<html" in report.to_html()


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


def test_two_dtypes_side_by_side_are_compared_by_the_coarser() -> None:
    def forward(x: torch.Tensor, w: torch.Tensor) -> dict:
        loss = (x.double() * w).sum()
        return locals()

    def backward(x: torch.Tensor, w: torch.Tensor) -> dict:
        assert x.dtype == torch.float32
        return {"dx": w.float(), "dw": x.double() * (1 + 1e-7)}

    inputs = {"x": torch.randn(40), "w": torch.randn(40, dtype=torch.float64)}
    report = backhand.check(forward, backward, inputs=inputs)
    assert [row.name for row in report.culprits] == ["w"]


@pytest.mark.parametrize(
    ("off", "exact", "approximate"), [(0.0, True, True), (1e-6, False, True), (1e-3, False, False)]
)
def test_the_table_shows_what_the_lectures_comparison_would(
    off: float, exact: bool, approximate: bool
) -> None:
    def forward(x: torch.Tensor, w: torch.Tensor) -> dict:
        y = x * w
        return locals()

    def backward(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> dict:
        return {"dx": dy * w * (1 + off), "dw": dy * x}

    inputs = {"x": torch.randn(8), "w": torch.rand(8) + 1}
    report = backhand.check(forward, backward, inputs=inputs, out="y", stress=False)
    assert (report["x"].exact, report["x"].approximate) == (exact, approximate)
    assert (report["x"].maxdiff == 0) == exact
    assert (report["w"].exact, report["w"].approximate, report["w"].maxdiff) == (True, True, 0)


def test_a_coarse_gradient_is_told_as_many_times_autograds_error() -> None:
    def forward(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> dict:
        y = x @ w + b
        return locals()

    def backward(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor) -> dict:
        rounded = dy.to(torch.bfloat16).to(dy.dtype) if dy.dtype == torch.float32 else dy
        return {"dx": rounded @ w.T, "dw": x.T @ dy, "db": dy.sum(0)}

    inputs = {"x": torch.randn(6, 5), "w": torch.randn(5, 4), "b": torch.zeros(4)}
    report = backhand.check(forward, backward, inputs=inputs, out="y", stress=False)
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("x", "dtype")], str(report)
    assert report["x"].multiple > 1000
    assert report["w"].multiple < 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("precision", "culprits"),
    [
        (lambda value: value.bfloat16(), ["h"]),
        (lambda value: value.half().to(value.dtype), ["h"]),
        (lambda value: value.to(value.dtype), []),
    ],
    ids=["returned in bfloat16", "rounded to float16 on the way", "as it is"],
)
def test_a_gradient_of_less_precision_than_its_tensor_is_wrong(dtype, precision, culprits) -> None:
    def forward(x: torch.Tensor, w: torch.Tensor) -> dict:
        h = x @ w
        y = h.tanh()
        return locals()

    def backward(dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, y: torch.Tensor) -> dict:
        dh = precision(dy * (1 - y**2))
        dx = dh.to(x.dtype) @ w.T
        dw = x.T @ dh.to(x.dtype)
        return locals()

    inputs = {"x": torch.randn(6, 5, dtype=dtype), "w": torch.randn(5, 4, dtype=dtype)}
    report = backhand.check(forward, backward, inputs=inputs, out="y", stress=False)
    assert [row.name for row in report.culprits] == culprits, str(report)
    assert all(row.mistake is not None and row.mistake.kind == "dtype" for row in report.culprits)


def test_the_lines_of_a_gradient_are_those_that_change_it_not_those_that_look_at_it() -> None:
    def show(*_: object) -> None:
        pass

    def filled(tensor: torch.Tensor, value: torch.Tensor) -> None:
        tensor.copy_(value)

    def forward(x, w):
        y = x * w
        show(y)
        loss = (y * y).sum()
        return locals()

    def backward(x, w, y):
        dy = 2 * y
        show(dy)
        dw = torch.empty_like(w)
        filled(dw, dy * x)
        show(dw)
        dx = dy * w
        return locals()

    def wrong(x, w, y):
        dy = 2 * y
        dw = torch.empty_like(w)
        filled(dw, dy * w)
        show(dw)
        dx = dy * w
        return locals()

    inputs = {"x": torch.randn(3, 4), "w": torch.randn(3, 4)}
    report = backhand.check(forward, backward, inputs=inputs)
    assert report.ok, str(report)
    assert [line.text for line in report["y"].lines] == ["dy = 2 * y"]
    assert [line.text for line in report["w"].lines] == ["dw = torch.empty_like(w)", "filled(dw, dy * x)"]
    assert report["y"].forward_line.text == "y = x * w"
    (row,) = backhand.check(forward, wrong, inputs=inputs).culprits
    assert [line.text for line in row.lines] == ["dw = torch.empty_like(w)", "filled(dw, dy * w)"]
