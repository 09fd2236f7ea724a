"""A check as it is called: what it takes, how often it runs what, and what it leaves alone."""

import gc
import json
import weakref
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import backhand
from altered import altered, from_text, verdicts
from backhand.errors import CheckError, WrongGradientError
from backhand.passes import batch_norm, mlp_chunked


def test_the_default_dtype_is_put_back_even_after_an_error() -> None:
    def forward(x: torch.Tensor) -> dict:
        raise ValueError("no")

    with pytest.raises(CheckError, match="forward raised ValueError: no"):
        backhand.check(forward, lambda x: {}, inputs={"x": torch.randn(3)})
    assert torch.get_default_dtype() == torch.float32


class State(NamedTuple):
    h: torch.Tensor
    c: torch.Tensor


def test_containers_among_the_inputs_stay_of_their_kind() -> None:
    def forward(state, scales):
        y = state.h * state.c * scales["missing"]
        return locals()

    def backward(dy, state, scales):
        dstate = [dy * state.c * scales["missing"], dy * state.h * scales["missing"]]
        return locals()

    inputs = {"state": State(torch.randn(3), torch.randn(3)), "scales": defaultdict(lambda: 2.0)}
    report = backhand.check(forward, backward, inputs=inputs, out="y")
    assert report.ok
    assert [row.name for row in report.rows] == ["state[0]", "state[1]"]


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
    assert told == ["dw: in `h *= 2`, a factor is off at `2`"]
    assert report["x"].verdict == "follows"  # for the same line


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


def through_a_decorator(function):
    def passed_on(*args, **kwargs):
        return function(*args, **kwargs)

    return passed_on


def test_a_bare_decorator_does_not_make_three_culprits_of_one() -> None:
    def forward(x, w):
        h = x * w
        y = h.tanh()
        return locals()

    def backward(dy, x, w, h, y):
        dh = dy * (1 - h**2)
        dx = dh * w
        dw = dh * x
        return locals()

    inputs = {"x": torch.randn(3, 4), "w": torch.randn(3, 4)}
    report = backhand.check(
        through_a_decorator(forward), through_a_decorator(backward), inputs=inputs, out="y"
    )
    assert [row.name for row in report.culprits] == ["h"]


def test_what_cannot_be_judged_is_told_in_one_line() -> None:
    with pytest.raises(CheckError, match="does not tell its parameters"):  # as what torch.jit compiles
        backhand.check(lambda x: {"y": x.relu()}, torch.add, inputs={"x": torch.ones(2)}, out="y")
    for seed in (2**70, -(2**64)):
        with pytest.raises(CheckError, match="seed is"):
            backhand.check(lambda x: {"y": x}, lambda dy: {"dx": dy}, inputs={"x": torch.ones(2)}, seed=seed)


def test_an_overflow_in_the_forward_is_no_crash() -> None:
    def forward(x):
        t = (1 + x.exp()).log()
        y = x - t
        return locals()

    def backward(dy, x, t):
        dt = -dy
        dx = dt * torch.sigmoid(x) + dy
        return locals()

    report = backhand.check(forward, backward, inputs={"x": torch.randn(5, 2) * 1e3}, out="y")
    assert any("not finite" in note for note in report.notes)


def test_inference_mode_is_left_for_a_check() -> None:
    with torch.inference_mode():
        report = backhand.check(
            lambda x: {"y": x * x}, lambda dy, x: {"dx": 2 * x * dy}, inputs={"x": torch.ones(3)}, out="y"
        )
        assert torch.is_inference_mode_enabled()
    assert report.ok


BLANKS = """
import torch

out = "h"


def forward(x, w):
    products = x * w
    z = products.sum(1)
    h = z.tanh()
    return locals()


def backward(dh, x, w, h):
    dz = dh * (1 - h)
    dproducts = ...
    dx = ...
    dw = ...
    return locals()


def inputs(generator):
    return {name: torch.randn(4, 3, generator=generator) for name in "xw"}
"""


@pytest.mark.parametrize(
    ("changed", "verdicts"),
    [
        ((), {"dz": "wrong", "dproducts": "todo", "dx": "todo", "dw": "todo"}),
        (("(1 - h)", "(1 - h**2)"), {"dz": "right", "dproducts": "todo", "dx": "todo", "dw": "todo"}),
        (
            ("dx = ...", "dx = dproducts * w"),
            {"dz": "wrong", "dproducts": "todo", "dx": "follows", "dw": "todo"},
        ),
        (
            ("dx = ...", "dx = dproducts * w\n    dx += ..."),
            {"dz": "wrong", "dproducts": "todo", "dx": "todo", "dw": "todo"},
        ),
        (
            ("dx = ...", "dx = dproducts * x"),
            {"dz": "wrong", "dproducts": "todo", "dx": "wrong", "dw": "todo"},
        ),
    ],
)
def test_what_is_yet_to_be_written_is_no_mistake(
    changed: tuple[str, str] | tuple[()], verdicts: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "neuron.py"
    path.write_text(BLANKS.replace(*changed) if changed else BLANKS)
    report = backhand.check_file(path)
    assert {row.gradient: row.verdict for row in report.rows} == verdicts, str(report)
    assert report.raised is None
    assert not report.ok


LOOPED = """
import torch

out = "y"


def forward(x, w):
    hs = [x]
    for t in range(3):
        hs.append((hs[-1] @ w).tanh())
    y = torch.stack(hs)
    return locals()


def backward(dy, x, w, hs):
    dx = torch.zeros_like(x)
    dw = torch.zeros_like(w)
    for t in reversed(range(3)):
        ...  # one after the other
    return {"dx": dx, "dw": dw}


def inputs(generator):
    return {"x": torch.randn(2, 4, generator=generator), "w": torch.randn(4, 4, generator=generator)}
"""


@pytest.mark.parametrize(
    ("written", "culprits", "raises"),
    [
        ("...", [], False),
        ("dw += hs[t].T @ dy[t + 1]\n        ...", ["w"], False),
        ("dw += hs[t] @ dy[t + 1]\n        ...", ["w"], True),
        ("pass", ["x", "w"], False),
    ],
)
def test_zeros_are_begun_beside_a_loop_that_is_to_be_written(
    written: str, culprits: list[str], raises: bool, tmp_path: Path
) -> None:
    path = tmp_path / "steps.py"
    path.write_text(LOOPED.replace("...", written))
    report = backhand.check_file(path)
    assert sorted(row.name for row in report.culprits) == sorted(culprits), str(report)
    assert "no tensor" not in str(report)
    assert {row.verdict for row in report.rows if row.name not in culprits} <= {"todo", "skipped"}
    assert (report.raised is not None) == raises
    assert not report.ok


@pytest.mark.parametrize(
    ("written", "verdicts", "raises"),
    [
        ("slope = ...\n    dz = dh * slope", {"dz": "todo", "dx": "follows", "dw": "follows"}, False),
        ("rest = ...\n    dz = dh * (1 - h**2)", {"dz": "right", "dx": "right", "dw": "right"}, True),
    ],
)
def test_what_is_made_of_a_stub_is_to_be_written_and_no_other_exception_is_passed_over(
    written: str, verdicts: dict[str, str], raises: bool, tmp_path: Path
) -> None:
    text = BLANKS.replace("dz = dh * (1 - h)", written)
    text = text.replace("    dproducts = ...\n", "").replace("dx = ...", "dx = dz[:, None] * w")
    text = text.replace("dw = ...", "dw = dz[:, None] * x" + "\n    unused = rest * 2" * raises)
    path = tmp_path / "neuron.py"
    path.write_text(text)
    report = backhand.check_file(path)
    judged = {row.gradient: row.verdict for row in report.rows if row.verdict != "skipped"}
    assert judged == verdicts, str(report)
    assert (report.raised is not None) == raises
    assert not report.ok
