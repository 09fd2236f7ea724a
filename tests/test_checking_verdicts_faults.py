"""Backward through time: one wrong line, however often it runs and whatever it feeds, is one culprit."""

import types

import pytest
import torch

import backhand
from altered import altered, from_text
from backhand.checking.mistakes import budget
from backhand.passes import gru_model, gru_running, transformer_model

LEAKY = '''
"""States that leak: h_t = keep * h_{t-1} + tanh(x_t V + h_{t-1} R + c)."""
import torch

STEPS = 3

def forward(x, start, V, R, c, keep):
    state, states, made = start, [], []
    for t in range(STEPS):
        new = torch.tanh(x[t] @ V + state @ R + c)  # (n, m)
        state = keep * state + new
        made.append(new)
        states.append(state)
    loss = torch.stack(states).pow(3).mean()
    return {"states": states, "made": made, "loss": loss}

def backward(x, start, V, R, c, keep, states, made):
    dx, dV, dR, dc, dkeep = map(torch.zeros_like, (x, V, R, c, keep))
    dstates, dmade = [None] * STEPS, [None] * STEPS
    count = STEPS * start.numel()
    arriving = torch.zeros_like(start)  # what the next time sends back
    for t in reversed(range(STEPS)):
        before = states[t - 1] if t else start
        dstate = 3 * states[t] ** 2 / count + arriving
        dnew = dstate
        draw = (1 - made[t] ** 2) * dnew
        dx[t] = draw @ V.T
        dV += x[t].T @ draw
        dR += before.T @ draw
        dc += draw.sum(0)
        dkeep += (before * dstate).sum(0)
        arriving = keep * dstate + draw @ R.T
        dstates[t], dmade[t] = dstate, dnew
    dstart = arriving
    return {"dx": dx, "dV": dV, "dR": dR, "dc": dc, "dkeep": dkeep, "dstart": dstart,
            "dstates": dstates, "dmade": dmade}

def inputs(generator):
    def draw(*shape):
        return torch.randn(*shape, generator=generator) * 0.6
    return {"x": draw(STEPS, 3, 2), "start": draw(3, 4), "V": draw(2, 4), "R": draw(4, 4),
            "c": draw(4), "keep": draw(4)}
'''

GATED = '''
"""A gated state, with the candidate's memory reset, as a GRU has it."""
import torch

STEPS = 3

def forward(x, s0, A, B, d):
    s, gates, resets, drafts, pasts, outs = s0, [], [], [], [], []
    k = s0.shape[1]
    for t in range(STEPS):
        own, past = x[t] @ A + d, s @ B  # (n, 3 k)
        reset = torch.sigmoid(own[:, :k] + past[:, :k])
        gate = torch.sigmoid(own[:, k : 2 * k] + past[:, k : 2 * k])
        draft = torch.tanh(own[:, 2 * k :] + reset * past[:, 2 * k :])
        s = gate * s + (1 - gate) * draft
        resets.append(reset)
        gates.append(gate)
        drafts.append(draft)
        pasts.append(past)
        outs.append(s)
    y = torch.stack(outs)
    return {"gates": gates, "resets": resets, "drafts": drafts, "pasts": pasts, "outs": outs, "y": y}

def backward(dy, x, s0, A, B, gates, resets, drafts, pasts, outs):
    k = s0.shape[1]
    dA, dB, dd = torch.zeros_like(A), torch.zeros_like(B), A.new_zeros(3 * k)
    dx = torch.zeros_like(x)
    ds = torch.zeros_like(s0)
    for t in reversed(range(STEPS)):
        s_before = outs[t - 1] if t > 0 else s0
        ds = ds + dy[t]
        ddraft = (1 - gates[t]) * ds
        inner = (1 - drafts[t] ** 2) * ddraft
        a_gate = gates[t] * (1 - gates[t]) * (s_before - drafts[t]) * ds
        a_reset = resets[t] * (1 - resets[t]) * pasts[t][:, 2 * k :] * inner
        down = torch.cat([a_reset, a_gate, inner], 1)
        dpast = torch.cat([a_reset, a_gate, resets[t] * inner], 1)
        dA += x[t].T @ down
        dd += down.sum(0)
        dB += s_before.T @ dpast
        dx[t] = down @ A.T
        ds = gates[t] * ds + dpast @ B.T
    return {"dA": dA, "dB": dB, "dd": dd, "dx": dx, "ds0": ds}

out = "y"

def inputs(generator):
    def draw(*shape):
        return torch.randn(*shape, generator=generator) * 0.5
    return {"x": draw(STEPS, 3, 2), "s0": draw(3, 4), "A": draw(2, 12), "B": draw(4, 12), "d": draw(12)}
'''

CHUNKED = '''
"""A gated state, no gradient across chunks of two steps; the backward goes through the chunks forward."""
import torch

STEPS = 4

def forward(x, V, R, g):
    state = torch.zeros(x.shape[1], R.shape[0])
    before, after, open_ = [], [], []
    own = torch.stack([xt @ V for xt in x], 1)  # (n, t, 2 m)
    m = R.shape[0]
    for t in range(STEPS):
        if t % 2 == 0:
            state = state.detach()
        before.append(state)
        gate = torch.sigmoid(own[:, t, :m] + g)
        state = torch.tanh(gate * (state @ R) + own[:, t, m:])
        open_.append(gate)
        after.append(state)
    h, z = torch.stack(after, 1), torch.stack(open_, 1)
    past = torch.stack(before, 1)
    return {"own": own, "h": h, "z": z, "past": past}

def backward(dh, x, V, R, g, own, h, z, past):
    m = R.shape[0]
    down = torch.zeros_like(own)
    dR = torch.zeros_like(R)
    for first in range(0, STEPS, 2):
        later = torch.zeros_like(h[:, 0])
        for t in reversed(range(first, first + 2)):
            dstate = dh[:, t] + later
            dpre = (1 - h[:, t] ** 2) * dstate
            dgate = z[:, t] * (1 - z[:, t]) * (past[:, t] @ R) * dpre
            down[:, t] = torch.cat([dgate, dpre], 1)
            dR += past[:, t].T @ (z[:, t] * dpre)
            later = (z[:, t] * dpre) @ R.T
    dg = down[:, :, :m].sum((0, 1))
    dV = torch.einsum("tnk,nto->ko", x, down)
    dx = torch.einsum("nto,ko->tnk", down, V)
    return {"down": down, "dR": dR, "dg": dg, "dV": dV, "dx": dx}

out = "h"

def inputs(generator):
    sizes = {"x": (STEPS, 3, 2), "V": (2, 10), "R": (5, 5), "g": (5,)}
    return {name: torch.randn(*size, generator=generator) * 0.6 for name, size in sizes.items()}
'''

# text, what is written instead of it, the kind that is named, and what its message says
SLIPS = {
    "a running term left out": (
        LEAKY,
        "keep * dstate + draw @ R.T",
        "draw @ R.T",
        "missing_branch",
        "branch",
    ),
    "what the next time sends back is not used": (
        LEAKY,
        "3 * states[t] ** 2 / count + arriving",
        "3 * states[t] ** 2 / count",
        "missing_branch",
        "the term arriving is missing",
    ),
    "tanh's derivative without its square": (
        LEAKY,
        "(1 - made[t] ** 2) * dnew",
        "(1 - made[t]) * dnew",
        "wrong_point",
        "`1 - made[t]` stands where `1 - made[t] ** 2` belongs",
    ),
    "a factor of the running term": (
        LEAKY,
        "keep * dstate + draw @ R.T",
        "keep * dstate + 2 * draw @ R.T",
        "scale",
        "2",
    ),
    "the sign of the running term": (
        LEAKY,
        "keep * dstate + draw @ R.T",
        "keep * dstate - draw @ R.T",
        "sign",
        "sign",
    ),
    "a sum over time that is overwritten": (LEAKY, "dc += draw", "dc = draw", "overwritten", "dc"),
    "a gate's running term left out": (
        GATED,
        "gates[t] * ds + dpast @ B.T",
        "dpast @ B.T",
        "missing_branch",
        "is missing",
    ),
    "a gate's derivative": (
        GATED,
        "gates[t] * (1 - gates[t]) * (s_before",
        "(1 - gates[t]) * (s_before",
        "wrong_point",
        "gates[t]",
    ),
    "the upstream is not read, in an order of turns that nothing else shows": (
        CHUNKED,
        "dstate = dh[:, t] + later",
        "dstate = torch.ones_like(dh[:, t]) + later",
        "wrong_upstream",
        "dh",
    ),
    "another gradient, both of tensors without a name": (
        CHUNKED,
        "(past[:, t] @ R) * dpre",
        "(past[:, t] @ R) * dstate",
        "wrong_upstream",
        "dstate is used where dpre belongs",
    ),
    "what should be a gradient is made of none": (
        CHUNKED,
        "(1 - h[:, t] ** 2) * dstate",
        "(1 - h[:, t] ** 2) * later",
        "zero",
        "all zeros",
    ),
    "a part of a tensor that is filled over time": (
        CHUNKED,
        "torch.cat([dgate, dpre], 1)",
        "torch.cat([dgate, dgate], 1)",
        "wrong_upstream",
        "dgate is used",
    ),
    "a step of a tensor is missing as a factor": (
        CHUNKED,
        "later = (z[:, t] * dpre) @ R.T",
        "later = dpre @ R.T",
        "wrong_point",
        "the factor z[:, t] is missing",
    ),
    "two slips in one line": (
        CHUNKED,
        "past[:, t].T @ (z[:, t] * dpre)",
        "past[:, t].T @ (h[:, t] * 2 * dpre)",
        "wrong_point",
        "two slips",
    ),
    "the candidate without its gate": (
        GATED,
        "(1 - gates[t]) * ds\n",
        "gates[t] * ds\n",
        "wrong_point",
        "`gates[t]` stands where `1 - gates[t]` belongs",
    ),
}


def lasting(text: str, steps: int) -> str:
    """The same pass over more time."""
    return text.replace("STEPS = 3", f"STEPS = {steps}")


def slipped(name: str, steps: int) -> tuple[types.ModuleType, str]:
    """A pass with a slip, and the line that has it."""
    text, old, new, *_ = SLIPS[name]
    assert text.count(old) == 1
    wrong = text.replace(old, new)
    (line,) = set(wrong.splitlines()) - set(text.splitlines())
    return from_text(lasting(wrong, steps)), line.strip()


@pytest.mark.parametrize("text", [LEAKY, GATED, CHUNKED], ids=["leaky", "gated", "chunked"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_a_right_backward_through_time_is_right_however_long(text: str, steps: int) -> None:
    report = backhand.check(from_text(lasting(text, steps)))
    assert report.ok, str(report)
    assert {row.verdict for row in report.rows} <= {"right", "skipped", "vacuous"}


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        *((name, 4) for name in SLIPS),
        ("a gate's running term left out", 6),
        ("a gate's running term left out", 10),
    ],
)
def test_a_wrong_line_of_a_loop_is_one_culprit_with_that_line_and_a_true_name(name: str, steps: int) -> None:
    *_, kind, words = SLIPS[name]
    module, line = slipped(name, steps)
    report = backhand.check(module)
    (culprit,) = report.culprits
    lines = [told.text.split("  #")[0].strip() for told in culprit.lines]
    assert line in lines
    if kind != "overwritten":  # which is told with the line that it writes over, above it
        assert lines[0] == line
    assert culprit.mistake.kind == kind
    assert words in culprit.mistake.message
    assert "times 0" not in culprit.mistake.also  # of zeros that says nothing more
    assert {row.verdict for row in report.rows} - {"skipped"} <= {"right", "wrong", "follows"}


def test_what_is_made_after_the_first_wrong_turn_follows_and_what_was_made_before_is_right() -> None:
    report = backhand.check(slipped("what the next time sends back is not used", 4)[0])
    states = [report[f"states[{t}]"].verdict for t in range(4)]
    assert states == ["follows", "follows", "wrong", "right"]
    assert [report[name].verdict for name in ("x", "V", "R", "c", "start")] == ["follows"] * 5


def test_the_branch_that_is_named_as_missing_is_the_one_that_was_left_out() -> None:
    """dstart gets two terms: through the first state, which leaks, and through what is made of it."""
    told = backhand.check(slipped("a running term left out", 4)[0])["start"].mistake
    assert told.detail["branches"] == ["states[0]"]
    other = from_text(lasting(LEAKY.replace("keep * dstate + draw @ R.T", "keep * dstate"), 4))
    assert backhand.check(other)["start"].mistake.detail["branches"] == ["made[0]"]


CHARACTERS = '''
"""A recurrent classifier of one symbol at a time, whose states have no gradients by name."""
import torch

def forward(symbols, answers, E, W, V, b):
    h, hs, scores = torch.zeros(W.shape[0]), [], []
    for symbol in symbols:
        h = torch.tanh(E[symbol] + W @ h + b)
        hs.append(h)
        scores.append(V @ h)
    loss = torch.nn.functional.cross_entropy(torch.stack(scores), answers)
    return {"hs": hs, "scores": scores, "loss": loss}

def backward(symbols, answers, E, W, V, b, hs, scores):
    dE, dW, dV, db = (torch.zeros_like(p) for p in (E, W, V, b))
    later = torch.zeros_like(b)
    for t in range(len(symbols) - 1, -1, -1):
        wrong = torch.softmax(scores[t], 0)
        wrong[answers[t]] -= 1
        wrong /= len(symbols)
        dV += torch.outer(wrong, hs[t])
        total = V.T @ wrong + later
        inner = (1 - hs[t] * hs[t]) * total
        db += inner
        dE[symbols[t]] += inner
        if t:
            dW += torch.outer(inner, hs[t - 1])
        later = W.T @ inner
    return {"dE": dE, "dW": dW, "dV": dV, "db": db}

def inputs(generator):
    symbols = torch.randint(0, 5, (6,), generator=generator)
    drawn = {n: torch.randn(*s, generator=generator) * 0.6
             for n, s in {"E": (5, 3), "W": (3, 3), "V": (4, 3), "b": (3,)}.items()}
    return {"symbols": symbols, "answers": symbols.remainder(4), **drawn}
'''


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("(1 - hs[t] * hs[t]) * total", "hs[t] * total", "wrong_point"),
        ("V.T @ wrong + later", "V.T @ wrong", "missing_branch"),
        ("later = W.T @ inner", "later = W @ inner", "transposed"),
        ("later = W.T @ inner", "later = 3 * W.T @ inner", "scale"),
        ("dE[symbols[t]] += inner", "dE[symbols[t]] = inner", "overwritten"),
        ("", "", None),
    ],
)
def test_a_running_gradient_that_is_not_returned_is_found_by_its_line(
    old: str, new: str, kind: str | None
) -> None:
    report = backhand.check(from_text(CHARACTERS.replace(old, new, 1)))
    assert len(report.culprits) == (kind is not None), str(report)
    for culprit in report.culprits:
        lines = [line.text.strip() for line in culprit.lines]
        assert any(new in line for line in lines)
        assert new in lines[0] or kind == "overwritten"
        assert culprit.mistake.kind == kind
        rest = {row.verdict for row in report.rows if row is not culprit}
        assert rest <= {"right", "follows", "skipped"}


STACKED = '''
"""Layers with residuals, the latest first; gradients are put in front of lists."""
import torch

def forward(x, Vs, Ws):
    stream, ins, mids = x, [], []
    for V, W in zip(Vs, Ws):
        ins.append(stream)
        mid = torch.tanh(stream @ V)  # (n, m)
        mids.append(mid)
        stream = stream + mid @ W  # (n, k)
    loss = stream.pow(3).mean()
    return {"ins": ins, "mids": mids, "end": stream, "loss": loss}

def backward(x, Vs, Ws, ins, mids, end):
    dVs, dWs = [], []
    dstream = 3 * end ** 2 / end.numel()
    for V, W, before, mid in zip(Vs.flip(0), Ws.flip(0), ins[::-1], mids[::-1]):
        dmid = dstream @ W.T
        dpre = (1 - mid ** 2) * dmid
        dWs.insert(0, mid.T @ dstream)
        dVs.insert(0, before.T @ dpre)
        dstream = dstream + dpre @ V.T
    return {"dx": dstream, "dVs": torch.stack(dVs), "dWs": torch.stack(dWs)}

def inputs(generator):
    sizes = {"x": (5, 3), "Vs": (3, 3, 4), "Ws": (3, 4, 3)}
    return {name: torch.randn(*size, generator=generator) * 0.6 for name, size in sizes.items()}
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "dWs.insert(0, mid.T @ dstream)",
            "dWs.insert(0, -mid.T @ dstream)",
        ),  # what a method puts into a list
        ("dVs.insert(0, before.T @ dpre)", "dVs.insert(0, before.T @ dmid[:, :4])"),
        ("dpre = (1 - mid ** 2) * dmid", "dpre = dmid"),  # its value is right, for another tensor
        ("dpre = (1 - mid ** 2) * dmid", "dpre = 1 - mid ** 2"),  # a tensor of the forward alone
        ("dstream = dstream + dpre @ V.T", "dstream = dpre @ V.T"),
        ("dstream = dstream + dpre @ V.T", "dstream = torch.zeros_like(dstream)"),
    ],
)
def test_a_line_that_feeds_lists_and_what_only_the_return_makes_is_one_culprit(old: str, new: str) -> None:
    assert backhand.check(from_text(STACKED)).ok
    report = backhand.check(from_text(STACKED.replace(old, new)))
    (culprit,) = report.culprits
    assert new in [line.text.strip() for line in culprit.lines]


def test_a_statement_is_found_beside_another_gradient_that_is_wrong_by_itself():
    def forward(x, gain):
        centred = x - x.mean(0)
        std = (centred.square().mean(0) + 1e-5).sqrt()
        y = gain * centred / std
        return locals()

    def backward(dy, gain, centred, std):
        dgain = (dy * centred / std).sum(1)  # of the wrong shape
        scaled = dy * gain
        part = -(scaled * centred).sum(0) / std  # should be std**2
        inner = scaled / std + centred * part / std / len(centred)
        dx = inner - inner.mean(0)
        return {"dx": dx, "dgain": dgain}

    inputs = {"x": torch.randn(6, 4), "gain": torch.randn(4)}
    report = backhand.check(forward, backward, inputs=inputs, out="y")
    assert {row.name for row in report.culprits} == {"x", "gain"}
    assert report["x"].lines[0].text.startswith("part = ")


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        # `x` is assigned three times in the forward, and `dx` is the gradient of each in turn
        ("dx = dx + denormalise(dy2 * gain2[i], xhat2, inv_std2)", "dx = dx", "missing_branch"),
        # it raises in every turn, and the return picks from what is there
        ("dmixed @ v.mT", "dmixed * v.mT", "product"),
    ],
)
def test_a_wrong_line_in_a_loop_through_layers_is_one_culprit(old: str, new: str, kind: str) -> None:
    report = backhand.check(altered(transformer_model, (old, new)))
    (culprit,) = report.culprits
    assert new in culprit.lines[0].text
    assert culprit.mistake is not None
    assert culprit.mistake.kind == kind


def test_a_running_variable_that_is_returned_under_another_name_is_carried_on() -> None:
    carried = "dh = dpre @ Whh.T"
    text = LATE_NAME.replace(carried, "pass")
    assert backhand.check(from_text(LATE_NAME)).ok
    (culprit,) = backhand.check(from_text(text)).culprits
    assert culprit.mistake is not None
    assert "no turn of the loop leaves in dh" in culprit.mistake.message


@pytest.mark.parametrize(
    ("old", "new"),
    [("dx[t] = dpre @ Wxh.T", "dx[t] = dpre @ Wxh"), ("dWxh += x[t].T @ dpre", "dWxh += x[t] @ dpre")],
)
def test_a_line_that_raises_where_it_adds_or_puts_something_is_found_and_mended(old: str, new: str) -> None:
    (culprit,) = backhand.check(from_text(LATE_NAME.replace(old, new))).culprits
    assert new in culprit.lines[0].text
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "transposed"


def test_a_line_that_raises_in_every_turn_of_a_while_is_mended_in_a_few_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "TRIES", 60)  # a `while` is run with a bound, which takes its time
    counted = LATE_NAME.replace("for t in reversed(range(len(x))):", "t = len(x) - 1\n    while t >= 0:")
    counted = counted.replace("        dh = dpre @ Whh.T", "        dh = dpre @ Whh.T\n        t -= 1")
    assert backhand.check(from_text(counted)).ok
    report = backhand.check(from_text(counted.replace("x[t].T @ dpre", "x[t] @ dpre")))
    (culprit,) = report.culprits
    assert "x[t] @ dpre" in culprit.lines[0].text
    assert not any("t -= 1" in line.text for line in culprit.lines)
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "transposed"


def test_a_name_that_the_forward_binds_again_is_not_blamed_where_a_line_above_raises() -> None:
    turns = LATE_NAME.replace("hs.append(torch.tanh(xt @ Wxh + hs[-1] @ Whh))", REBINDING)
    turns = turns.replace("dh = 2 * hs[-1]", "above = 2 * hs[-1]")
    turns = turns.replace("dpre = dh * (1", "dstate = above + carried\n        dpre = dstate * (1")
    turns = turns.replace("    for t in rev", "    carried = 0\n    for t in rev")
    turns = turns.replace("dh = dpre @ Whh.T", "carried, above = dpre @ Whh.T, 0").replace(
        "dh0 = dh", "dh0 = carried"
    )
    turns = turns.replace('return {"dx": dx, "dWxh": dWxh, "dWhh": dWhh, "dh0": dh0}', "return locals()")
    assert backhand.check(from_text(turns)).ok
    report = backhand.check(from_text(turns.replace("2 * hs[-1] / hs", "hs[-1] @ hs[-1] / hs")))
    (culprit,) = report.culprits
    assert culprit.name != "state"
    assert "above = hs[-1] @ hs[-1]" in culprit.lines[0].text


def test_an_addend_that_is_rightly_zero_in_one_turn_does_not_hide_the_line_that_adds_it() -> None:
    assert backhand.check(from_text(DECAYING)).ok
    wrong = DECAYING.replace("dkeep += dstate * states[t]", "dkeep += dstate")
    (culprit,) = backhand.check(from_text(wrong)).culprits
    assert "dkeep += dstate" in culprit.lines[0].text
    assert culprit.mistake is not None
    assert "the factor states[t] is missing" in culprit.mistake.message


DECAYING = """
import torch

def forward(x, keep):
    state, states, ys = torch.zeros(3), [], []
    for xt in x:
        states.append(state)
        state = keep * state + xt
        ys.append(state * state)
    return {"states": states, "ys": torch.stack(ys)}

def backward(dys, x, keep, states):
    dkeep, dx, later = torch.zeros_like(keep), torch.zeros_like(x), torch.zeros_like(keep)
    for t in reversed(range(len(x))):
        dstate = 2 * (keep * states[t] + x[t]) * dys[t] + later
        dx[t] = dstate
        dkeep += dstate * states[t]
        later = keep * dstate
    return {"dkeep": dkeep, "dx": dx}

out = "ys"

def inputs(generator):
    return {"x": torch.randn(4, 3, generator=generator), "keep": torch.rand(3, generator=generator)}
"""

REBINDING = "state = torch.tanh(xt @ Wxh + hs[-1] @ Whh)\n        hs.append(state)"

LATE_NAME = """
import torch

def forward(x, h0, Wxh, Whh):
    hs = [h0]
    for xt in x:
        hs.append(torch.tanh(xt @ Wxh + hs[-1] @ Whh))
    loss = (hs[-1] ** 2).mean()
    return locals()

def backward(x, h0, Wxh, Whh, hs):
    dx, dWxh, dWhh = torch.zeros_like(x), torch.zeros_like(Wxh), torch.zeros_like(Whh)
    dh = 2 * hs[-1] / hs[-1].numel()
    for t in reversed(range(len(x))):
        dpre = dh * (1 - hs[t + 1] ** 2)
        dx[t] = dpre @ Wxh.T
        dWxh += x[t].T @ dpre
        dWhh += hs[t].T @ dpre
        dh = dpre @ Whh.T
    dh0 = dh
    return {"dx": dx, "dWxh": dWxh, "dWhh": dWhh, "dh0": dh0}

def inputs(generator):
    sizes = {"x": (4, 3, 2), "h0": (3, 5), "Wxh": (2, 5), "Whh": (5, 5)}
    return {name: torch.randn(*size, generator=generator) * 0.6 for name, size in sizes.items()}
"""


FADING = '''
"""Rows that fade: each step keeps a part of the row before and adds one of a table."""
import torch

def forward(tokens, table, keep, W):
    row, rows = torch.zeros(tokens.shape[1], table.shape[1]), []
    for step in tokens:
        rows.append(row)
        row = keep * row + table[step]
    end = row
    loss = torch.tanh(end @ W).pow(2).sum()
    return {"rows": rows, "end": end, "loss": loss}

def backward(tokens, table, keep, W, rows, end):
    grads = {"dtable": torch.zeros_like(table), "dkeep": torch.zeros_like(keep)}
    out = torch.tanh(end @ W)
    back = 2 * out * (1 - out ** 2)
    grads["dW"] = end.T @ back
    dend = back @ W.T
    later = 0.0
    carry = dend.clone()
    for t in range(len(tokens) - 1, -1, -1):
        now = carry + 0 * later
        grads["dkeep"] += (now * rows[t]).sum(0)
        grads["dtable"].index_add_(0, tokens[t], now)
        later = now
        carry = now * keep
    grads["dend"] = dend
    return grads

def inputs(generator):
    drawn = {n: torch.rand(*s, generator=generator) + 0.1
             for n, s in {"table": (5, 3), "keep": (3,), "W": (3, 2)}.items()}
    return {"tokens": torch.randint(0, 5, (4, 6), generator=generator), **drawn}
'''


@pytest.mark.parametrize(
    ("old", "new", "kind", "words"),
    [
        ("dend = back @ W.T", "dend = back * W.T", "product", "multiplies element by element"),
        ("(now * rows[t])", "(dend * rows[t])", "wrong_upstream", "dend is used where carry belongs"),
        ("torch.zeros_like(keep)", "torch.ones_like(keep)", "repeated_branch", "begins with ones"),
        ("torch.zeros_like(keep)", "torch.empty_like(keep)", "repeated_branch", "whatever lies in memory"),
        ("(now * rows[t])", "now", "wrong_point", "the factor rows[t] is missing"),
    ],
)
def test_gradients_in_a_dictionary_that_a_loop_fills_have_one_culprit_with_its_line(
    old: str, new: str, kind: str, words: str
) -> None:
    assert backhand.check(from_text(FADING)).ok
    report = backhand.check(from_text(FADING.replace(old, new)))
    (culprit,) = report.culprits
    assert new in culprit.lines[0].text
    assert culprit.mistake is not None
    assert culprit.mistake.kind == kind
    assert words in culprit.mistake.message


@pytest.mark.parametrize(
    ("old", "new", "kind", "words"),
    [
        ("dx[t] = draw", "dx[0] = draw", "partial", "`dx[0]` stands where `dx[t]` belongs"),
        ("dstart = arriving", "dstart = before", "wrong_point", "before is used where arriving belongs"),
    ],
)
def test_a_wrong_index_or_name_beside_a_loop_is_told_by_what_belongs_there(
    old: str, new: str, kind: str, words: str
) -> None:
    (culprit,) = backhand.check(from_text(LEAKY.replace(old, new))).culprits
    assert new in culprit.lines[0].text
    assert culprit.mistake is not None
    assert culprit.mistake.kind == kind
    assert words in culprit.mistake.message


def test_a_list_that_is_filled_from_the_wrong_end_is_told_with_the_line_that_fills_it() -> None:
    text = STACKED.replace("torch.stack(dVs), ", "dVs, ")
    text = text.replace('    return {"dx', '    dVs = torch.stack(dVs)\n    return {"dx')
    assert backhand.check(from_text(text)).ok
    (culprit,) = backhand.check(from_text(text.replace("dVs.insert(0, ", "dVs.append("))).culprits
    assert "dVs.append(" in "".join(line.text for line in culprit.lines)
    assert culprit.mistake is not None
    assert "in the opposite order along axis 0" in culprit.mistake.message


def test_a_part_that_nothing_is_written_into_is_told() -> None:
    text = STACKED.replace("dVs, dWs = [], []", "dVs, dWs = torch.empty_like(Vs), []")
    text = text.replace("        dVs.insert(0, before.T @ dpre)\n", "        dVs[i] = before.T @ dpre\n")
    text = text.replace("for V, W, before, mid in zip(", "for i, V, W, before, mid in zip([2, 1, 0], ")
    text = text.replace("torch.stack(dVs)", "dVs")
    assert backhand.check(from_text(text)).ok
    (culprit,) = backhand.check(from_text(text.replace("[2, 1, 0]", "[2, 1, 1]"))).culprits
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "partial"
    assert "a part of `torch.empty_like(Vs)` is never written" in culprit.mistake.message


def test_what_a_raising_line_kept_away_is_not_reached_and_items_of_a_new_list_are_no_zeros() -> None:
    text = STACKED.replace("dstream = 3 * end ** 2 / end.numel()", "dstream = 3 * end @ end / end.numel()")
    text = text.replace("for V, W, before", "dmids = []\n    for V, W, before")
    text = text.replace("        dpre = (1", "        dmids.append(dmid)\n        dpre = (1")
    text = text.replace('return {"dx"', 'return {"dmids": dmids[::-1], "dx"')
    report = backhand.check(from_text(text))
    (culprit,) = report.culprits
    assert "3 * end @ end" in culprit.lines[0].text
    assert not any("None" in row.mistake.message for row in report.rows if row.mistake)
    assert report["mids[0]"].verdict != "skipped"


def test_a_container_where_a_tensor_belongs_is_named() -> None:
    report = backhand.check(from_text(STACKED.replace("torch.stack(dVs)", "dVs")))
    assert not report.ok
    assert report["Vs"].verdict == "todo"
    assert "torch.stack or torch.cat" in report["Vs"].note


def test_a_variable_is_not_carried_on_by_a_loop_that_ends_in_a_condition() -> None:
    ending = CHARACTERS.replace("        later = W.T @ inner\n", "")  # which stood last
    right = ending.replace("        db += inner\n", "        db += inner\n        later = W.T @ inner\n")
    assert backhand.check(from_text(right)).ok
    (culprit,) = backhand.check(from_text(ending)).culprits
    assert "later = torch.zeros_like(b)" in culprit.lines[0].text
    assert culprit.mistake is not None
    assert "no turn of the loop leaves in later" in culprit.mistake.message


def test_what_no_slip_explains_is_told_by_what_belongs_there() -> None:
    text = CHARACTERS.replace("(1 - hs[t] * hs[t]) * total", "torch.sin(hs[t]) * total")
    (culprit,) = backhand.check(from_text(text)).culprits
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "unexplained"
    assert "`inner = torch.sin(hs[t]) * total` should give the gradient of what the add in" in str(
        culprit.mistake
    )


@pytest.mark.parametrize(
    ("text", "old", "new", "words"),
    [
        (LEAKY, "reversed(range(STEPS))", "reversed(range(1, STEPS))", "`1` stands where `0` belongs"),
        (LEAKY, "reversed(range(STEPS))", "range(STEPS)", "the loop goes the wrong way"),
        (CHARACTERS, "- 1, -1, -1)", "- 1, 0, -1)", "`0` stands where `-1` belongs"),
        (CHARACTERS, "len(symbols) - 1, -1, -1)", "len(symbols) - 2, -1, -1)", "begins or ends a turn off"),
    ],
)
def test_all_that_a_loop_makes_wrong_by_its_head_has_one_culprit_with_that_line(
    text: str, old: str, new: str, words: str
) -> None:
    report = backhand.check(from_text(text.replace(old, new)))
    (culprit,) = report.culprits
    assert culprit.lines[0].text.strip().startswith("for t in ")
    assert culprit.mistake is not None
    assert words in culprit.mistake.message
    assert {row.verdict for row in report.rows} <= {"right", "wrong", "follows", "skipped"}


def test_what_a_line_that_raises_has_left_unwritten_is_not_blamed_for_it() -> None:
    text = CHARACTERS.replace(
        "    later = torch", "    dhs = torch.empty(len(hs), b.numel())\n    later = torch"
    )
    text = text.replace("        db += inner", "        dhs[t] = total\n        db += inner")
    text = text.replace('return {"dE"', 'return {"dhs": list(dhs), "dE"')
    assert backhand.check(from_text(text)).ok
    report = backhand.check(from_text(text.replace("V.T @ wrong + later", "V @ wrong + later")))
    (culprit,) = report.culprits
    assert "V @ wrong + later" in culprit.lines[0].text


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ("3 * made[t] ** 2 / count", "made[t] is used where states[t] belongs"),
        ("3 * states[t] ** 3 / count", "wrong exponent"),
    ],
)
def test_the_first_line_of_a_turn_is_tried_with_the_number_of_that_turn(new: str, words: str) -> None:
    above = "        before = states[t - 1] if t else start\n"
    line = "        dstate = 3 * states[t] ** 2 / count + arriving\n"
    first = LEAKY.replace(above + line, line + above)
    assert backhand.check(from_text(first)).ok
    (culprit,) = backhand.check(from_text(first.replace("3 * states[t] ** 2 / count", new))).culprits
    assert culprit.mistake is not None
    assert words in culprit.mistake.message


def test_what_is_a_number_in_the_first_turn_and_a_tensor_later_may_belong_there() -> None:
    text = CHARACTERS.replace("later = torch.zeros_like(b)", "later = 0.0")
    assert backhand.check(from_text(text)).ok
    (culprit,) = backhand.check(
        from_text(text.replace("V.T @ wrong + later", "V.T @ wrong + hs[t]"))
    ).culprits
    assert culprit.mistake is not None
    assert "hs[t] is used where later belongs" in culprit.mistake.message


CELLS = """
import numpy as np


def cell_forward(x, before, W, U, b):
    after = np.tanh(W @ before + U @ x + b)
    return after, (after, before, x, W, U)


def net_forward(x, h0, W, U, b):
    hs, caches, h = np.zeros((*h0.shape, x.shape[-1])), [], h0
    for t in range(x.shape[-1]):
        h, cache = cell_forward(x[:, :, t], h, W, U, b)
        hs[:, :, t] = h
        caches.append(cache)
    return hs, (caches, x, W, U, b)


def cell_backward(dafter, cache):
    after, before, x, W, U = cache
    da = (1 - after**2) * dafter
    db = da.sum(axis=1, keepdims=True)
    return {"dx": U.T @ da, "dbefore": W.T @ da, "dU": da @ x.T, "dW": da @ before.T, "db": db}


def net_backward(dhs, cache):
    caches, x, W, U, b = cache
    dx, dh = np.zeros(x.shape), np.zeros(dhs.shape[:2])
    dU, dW, db = np.zeros(U.shape), np.zeros(W.shape), np.zeros(b.shape)
    for t in reversed(range(x.shape[-1])):
        cell = cell_backward(dhs[:, :, t] + dh, caches[t])
        dx[:, :, t] = cell["dx"]
        dh = cell["dbefore"]
        dU += cell["dU"]
        dW += cell["dW"]
        db += cell["db"]
    return dx, dh, dW, dU, db


def inputs(rng):
    shapes = {"x": (4, 3, 4), "h0": (5, 3), "W": (5, 5), "U": (5, 4), "b": (5, 1)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}
"""


@pytest.mark.seconds
def test_a_wrong_argument_of_a_call_that_gives_a_dictionary_is_one_culprit(tmp_path):
    file = tmp_path / "network.py"
    file.write_text(CELLS.replace("dhs[:, :, t] + dh", "dhs[:, :, t]"))
    found = {one.name: one.report for one in backhand.check_files([file])}
    report = found["net_backward"]
    assert report is not None
    (culprit,) = report.culprits
    assert culprit.lines[0].text == "cell = cell_backward(dhs[:, :, t], caches[t])"


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rs[t] * (1 - rs[t]) * dr", "rs[t] * (1 - rs[t])"),
        ("(1 - candidates[t] ** 2) * dcandidate", "1 - candidates[t] ** 2"),
    ],
)
def test_a_line_that_should_give_a_gradient_and_is_made_of_none_is_one_culprit(old: str, new: str) -> None:
    report = backhand.check(altered(gru_running, (old, new)), stress=False)
    (row,) = report.culprits
    assert row.mistake.kind == "wrong_upstream"
    assert any(new in line.text for line in row.lines)


def test_the_derivative_of_a_gate_that_is_left_out_is_one_factor() -> None:
    wrong = altered(
        gru_model, ("z[:, t] * (1 - z[:, t]) * (c[:, t] - befores[:, t])", "(c[:, t] - befores[:, t])")
    )
    (row,) = backhand.check(wrong, stress=False).culprits
    assert "the factor `z[:, t] * (1 - z[:, t])` is missing" in row.mistake.message


@pytest.mark.parametrize(
    ("old", "new", "kind", "words"),
    [
        (
            "a_gate = gates[t] * (1 - gates[t]) * (s_before - drafts[t]) * ds",
            "a_gate = gates[t] * (1 + gates[t]) * (s_before - drafts[t])",
            "sign",
            "opposite sign, and the factor ds is missing",
        ),
        (
            "inner = (1 - drafts[t] ** 2) * ddraft",
            "inner = ds",
            "wrong_upstream",
            "ds is used where ddraft belongs, and the factor `1 - drafts[t] ** 2` is missing",
        ),
        (
            "inner = (1 - drafts[t] ** 2) * ddraft",
            "inner = (1 - drafts[t - 1]) * ddraft",
            "wrong_point",
            "`drafts[t - 1]` stands where `drafts[t]` belongs, and `1 - drafts[t]` stands where",
        ),
        (
            "(s_before - drafts[t]) * ds",
            "(s_before - resets[t]) * ddraft",
            "wrong_point",
            "resets[t] is used where drafts[t] belongs, and ddraft is used where ds belongs",
        ),
        (
            "down = torch.cat([a_reset, a_gate, inner], 1)",
            "down = torch.cat([a_gate, a_reset, inner], 1)",
            "swapped",
            "a_gate and a_reset are exchanged",
        ),
    ],
)
def test_two_slips_in_one_line_of_a_loop_are_named_both(old: str, new: str, kind: str, words: str) -> None:
    (culprit,) = backhand.check(from_text(GATED.replace(old, new)), stress=False).culprits
    assert culprit.mistake is not None
    assert culprit.mistake.kind == kind
    assert words in culprit.mistake.message
    assert any(new in line.text for line in culprit.lines)


@pytest.mark.seconds
def test_what_is_put_together_is_not_at_fault_where_one_of_its_parts_is() -> None:
    # the part is right for something else, and what is put together of it is right for nothing
    old = "r[:, t] * (1 - r[:, t]) * befores[:, t] * product"
    (culprit,) = backhand.check(altered(gru_model, (old, "product")), stress=False).culprits
    assert culprit.lines[0].text.strip().startswith("reset = product")
    assert culprit.mistake is not None
    both = "the factor `r[:, t] * (1 - r[:, t])` is missing, and the factor befores[:, t] is missing"
    assert both in culprit.mistake.message


# The running variable begins as zeros, which would be its gradient if no turn had ever written it.
CARRYING = """
import torch

def forward(x, h0, Wx, Wh, Wy):
    h, hs, ys = h0, [], []
    for t in range(len(x)):
        h = torch.tanh(x[t] @ Wx + h @ Wh)
        hs.append(h)
        ys.append(h @ Wy)
    y = torch.stack(ys)
    return {"hs": hs, "y": y}

def backward(dy, x, h0, Wx, Wh, Wy, hs):
    dx, dWx, dWh, dWy = map(torch.zeros_like, (x, Wx, Wh, Wy))
    later = torch.zeros_like(h0)
    for t in reversed(range(len(x))):
        dWy += hs[t].T @ dy[t]
        dh = dy[t] @ Wy.T + later
        da = (1 - hs[t] ** 2) * dh
        dx[t] = da @ Wx.T
        dWx += x[t].T @ da
        dWh += (hs[t - 1] if t else h0).T @ da
        later = da @ Wh.T
    dh0 = later
    return {"dx": dx, "dh0": dh0, "dWx": dWx, "dWh": dWh, "dWy": dWy}

out = "y"

def inputs(generator):
    def draw(*shape):
        return torch.randn(*shape, generator=generator) * 0.5
    return {"x": draw(3, 4, 2), "h0": draw(4, 5), "Wx": draw(2, 5), "Wh": draw(5, 5), "Wy": draw(5, 3)}
"""


@pytest.mark.parametrize(("old", "new"), [("da @ Wh.T", "da * Wh.T"), ("dy[t] @ Wy.T", "dy[t] * Wy.T")])
def test_a_running_gradient_whose_line_raises_is_complete_after_the_loop_alone(old: str, new: str) -> None:
    assert backhand.check(from_text(CARRYING)).ok
    (culprit,) = backhand.check(from_text(CARRYING.replace(old, new)), stress=False).culprits
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "product"


def test_a_line_of_a_loop_that_adds_to_what_another_has_read_already_is_told_with_that() -> None:
    late = (
        ("dh = dy[t] @ Wy.T + later", "dh = dy[t] @ Wy.T"),
        ("dx[t] = da", "dh += later\n        dx[t] = da"),
    )
    text = CARRYING
    for old, new in late:
        text = text.replace(old, new)
    (culprit,) = backhand.check(from_text(text), stress=False).culprits
    assert culprit.mistake is not None
    assert "`dh += later` stands below `da = (1 - hs[t] ** 2) * dh`" in culprit.mistake.message
    first, second = (line.text.strip() for line in culprit.lines[:2])
    assert first == "da = (1 - hs[t] ** 2) * dh"
    assert second == "dh += later"


def test_a_name_that_every_turn_binds_anew_is_not_judged_where_the_loop_raises_in_its_first() -> None:
    line = "carried = (1 - z[:, t]) * dstate + r[:, t] * product + da[:, t, : 2 * m] @ Wh.T"
    wrong = altered(gru_model, (line, line.replace("da[:, t, : 2 * m] @ Wh.T", "Wh.T @ da[:, t, : 2 * m]")))
    report = backhand.check(wrong, stress=False)
    assert [row.name for row in report.culprits] == ["h0"]
    assert report["state"].verdict == "skipped"


def test_a_running_gradient_that_is_taken_from_another_variable_is_one_culprit() -> None:
    assert "later = da @ Wh.T" in CARRYING
    (culprit,) = backhand.check(
        from_text(CARRYING.replace("later = da @ Wh.T", "later = da")), stress=False
    ).culprits
    assert "later = da" in [line.text.strip() for line in culprit.lines]


def test_another_gradient_in_what_is_called_one_is_at_fault_and_not_what_reads_it() -> None:
    (culprit,) = backhand.check(
        altered(gru_running, ("dr = memories[t] * inner", "dr = dz")), stress=False
    ).culprits
    assert culprit.lines[0].text.strip().startswith("dr = dz")


MEMORY = '''
"""A memory of outer products that fades by a rate for each key, read before it is written."""
import torch

def forward(key, value, query, fade):
    keep = torch.sigmoid(fade)  # (m,)
    memory, memories, read = torch.zeros(key.shape[1], value.shape[1]), [], []
    for t in range(len(key)):
        memories.append(memory)
        new = torch.outer(key[t], value[t])
        read.append(query[t] @ (memory + 0.5 * new))
        memory = keep[:, None] * memory + new
    return {"keep": keep, "memories": memories, "read": torch.stack(read)}

out = "read"

def backward(dread, key, value, query, fade, keep, memories):
    dkey, dvalue, dquery, dkeep = map(torch.zeros_like, (key, value, query, keep))
    back = torch.zeros_like(memories[0])
    for t in reversed(range(len(key))):
        now = torch.outer(query[t], dread[t])
        dquery[t] = (memories[t] + 0.5 * torch.outer(key[t], value[t])) @ dread[t]
        dnew = 0.5 * now + back
        dkey[t] = dnew @ value[t]
        dvalue[t] = key[t] @ dnew
        dkeep += (back * memories[t]).sum(1)
        back = keep[:, None] * back + now
    dfade = dkeep * keep * (1 - keep)
    return {"dkey": dkey, "dvalue": dvalue, "dquery": dquery, "dkeep": dkeep, "dfade": dfade}

def inputs(generator):
    drawn = {n: torch.randn(5, m, generator=generator) for n, m in {"key": 3, "value": 4, "query": 3}.items()}
    return {**drawn, "fade": torch.randn(3, generator=generator)}
'''


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        # a factor that stands with an axis more, as another one does in the same line
        ("keep[:, None] * back +", "back +", "the factor keep[:, None] is missing"),
        # what a running variable held before may be what its line lacks
        ("keep[:, None] * back +", "keep[:, None] +", "the factor back is missing"),
        # in the first turn nothing has come back yet, and nothing is to be added
        ("(back * memories[t]).sum(1)", "memories[t].sum(1)", "the factor back is missing"),
    ],
)
def test_a_factor_that_a_running_line_lacks_is_named_in_every_turn(old: str, new: str, words: str) -> None:
    assert backhand.check(from_text(MEMORY)).ok
    (culprit,) = backhand.check(from_text(MEMORY.replace(old, new)), stress=False).culprits
    assert new in culprit.lines[0].text
    assert culprit.mistake is not None
    assert words in culprit.mistake.message


ONE_LETTER = '''
"""A recurrent net that reads one vector a step, as the shortest ones do."""
import torch

def forward(seen, U, V, R, c, goal):
    state, states, errors = torch.zeros(len(R)), [], []
    for t in range(len(seen)):
        state = torch.tanh(U @ seen[t] + R @ state + c)
        states.append(state)
        errors.append(V @ state - goal[t])
    return {"states": states, "errors": errors, "loss": sum(e.pow(2).sum() for e in errors)}

def backward(seen, U, V, R, c, goal, states, errors):
    dU, dV, dR, dc, dseen, dgoal = map(torch.zeros_like, (U, V, R, c, seen, goal))
    later = torch.zeros_like(states[0])
    for t in reversed(range(len(seen))):
        derror = 2 * errors[t]
        dgoal[t] = -derror
        dV += torch.outer(derror, states[t])
        dstate = V.T @ derror + later
        draw = (1 - states[t] ** 2) * dstate
        dc += draw
        dU += torch.outer(draw, seen[t])
        dseen[t] = U.T @ draw
        if t:
            dR += torch.outer(draw, states[t - 1])
        later = R.T @ draw
    return {"dU": dU, "dV": dV, "dR": dR, "dc": dc, "dseen": dseen, "dgoal": dgoal}

def inputs(generator):
    sizes = {"seen": (4, 3), "U": (5, 3), "V": (6, 5), "R": (5, 5), "c": (5,), "goal": (4, 6)}
    return {n: torch.randn(*s, generator=generator) * 0.5 for n, s in sizes.items()}
'''


@pytest.mark.parametrize("product", ["V.T @ derror", "R.T @ draw"])
def test_a_matrix_times_a_vector_element_by_element_is_told_where_it_stands(product: str) -> None:
    assert backhand.check(from_text(ONE_LETTER)).ok
    wrong = product.replace("@", "*")
    (culprit,) = backhand.check(from_text(ONE_LETTER.replace(product, wrong)), stress=False).culprits
    assert wrong in culprit.lines[0].text
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "product"


FADING_STATES = '''
"""States whose gradients are listed as they come, each under a second name on its way."""
import torch

out = "made"

def forward(x, W, R):
    state, raws, states = torch.zeros(x.shape[1], len(R)), [], []
    for t in range(len(x)):
        raw = x[t] @ W + state @ R
        state = torch.tanh(raw)
        raws.append(raw)
        states.append(state)
    return {"raws": raws, "states": states, "made": torch.stack(states)}

def backward(dmade, x, W, R, raws, states):
    dW, dR, dstates, draws = torch.zeros_like(W), torch.zeros_like(R), [], []
    later = torch.zeros_like(states[0])
    for t in reversed(range(len(states))):
        dstate = dmade[t] + later
        draw = (1 - states[t] ** 2) * dstate
        later = draw @ R.T
        dstates.append(dstate)
        draws.append(draw)
        dW += x[t].T @ draw
        if t:
            dR += states[t - 1].T @ draw
    draws.reverse()
    dstates = dstates[::-1]
    dx = torch.stack(draws) @ W.T
    return {"dW": dW, "dR": dR, "dx": dx, "draws": draws, "dstates": dstates}

def inputs(generator):
    sizes = {"x": (3, 4, 2), "W": (2, 5), "R": (5, 5)}
    return {n: torch.randn(*s, generator=generator) * 0.6 for n, s in sizes.items()}
'''


def test_a_running_gradient_that_only_gets_a_second_name_is_one_culprit_with_that_line() -> None:
    assert backhand.check(from_text(FADING_STATES)).ok
    wrong = FADING_STATES.replace("dstate = dmade[t] + later", "dstate = later")
    (culprit,) = backhand.check(from_text(wrong), stress=False).culprits
    assert culprit.lines[0].text.strip() == "dstate = later"


FADING_MEAN = '''
"""A running mean of rows, each of which fades by a rate for each feature."""
import torch

def forward(rows, rate):
    mean = torch.zeros(rows.shape[0], rows.shape[2])  # (n, m)
    for t in range(rows.shape[1]):
        mean = rate * mean + (1 - rate) * rows[:, t]
    return {"mean": mean, "loss": mean.pow(2).sum()}

def backward(rows, rate, mean):
    dmean = 2 * mean
    drows = torch.zeros_like(rows)
    g = dmean.clone()
    means = [torch.zeros_like(dmean)]
    for t in range(rows.shape[1]):
        means.append(rate * means[-1] + (1 - rate) * rows[:, t])
    drate = torch.zeros_like(rate)
    for t in reversed(range(rows.shape[1])):
        drows[:, t] = (1 - rate) * g
        drate += (g * (means[t] - rows[:, t])).sum(0)
        g *= rate
    return {"drows": drows, "drate": drate}

def inputs(generator):
    return {"rows": torch.randn(4, 3, 2, generator=generator), "rate": torch.rand(2, generator=generator)}
'''


def test_a_finished_gradient_in_the_place_of_the_running_one_is_told_with_both_names() -> None:
    assert backhand.check(from_text(FADING_MEAN)).ok
    wrong = FADING_MEAN.replace("drows[:, t] = (1 - rate) * g", "drows[:, t] = (1 - rate) * dmean")
    (culprit,) = backhand.check(from_text(wrong), stress=False).culprits
    assert culprit.lines[0].text.strip() == "drows[:, t] = (1 - rate) * dmean"
    assert culprit.mistake is not None
    assert "dmean is used where g belongs" in culprit.mistake.message


LISTED = '''
"""Gates in a list, each read by two lines of the backward."""
import torch

def forward(x, w, v):
    gates, total = [], 0
    for t in range(len(x)):
        gate = torch.sigmoid(x[t] @ w)
        gates.append(gate)
        total = total + (gate * v).pow(2).sum()
    return {"gates": gates, "loss": total}

def backward(x, w, v, gates):
    dx, dw, dv = map(torch.zeros_like, (x, w, v))
    for t in range(len(x)):
        dy = 2 * gates[t] * v
        slope = gates[t] * (1 - gates[t])
        draw = dy * v * slope
        dx[t] = draw @ w.T
        dw += x[t].T @ draw
        dv += (dy * gates[t]).sum(0)
    return {"dx": dx, "dw": dw, "dv": dv}

def inputs(generator):
    sizes = {"x": (3, 4, 3), "w": (3, 5), "v": (5,)}
    return {n: torch.randn(*s, generator=generator) for n, s in sizes.items()}
'''


def test_an_item_of_a_list_that_is_changed_in_place_is_told_at_the_line_that_changes_it() -> None:
    assert backhand.check(from_text(LISTED)).ok
    wrong = LISTED.replace("gates[t] * (1 - gates[t])", "gates[t].mul_(1 - gates[t])")
    (culprit,) = backhand.check(from_text(wrong), stress=False).culprits
    assert culprit.name == "v"
    assert "slope = " in culprit.lines[0].text
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "modifies_input"


def test_what_a_sum_begins_with_is_at_fault_where_more_goes_into_it_than_gradients() -> None:
    old = "dA, dB, dd = torch.zeros_like(A), torch.zeros_like(B)"
    assert old in GATED
    wrong = GATED.replace(old, "dA, dB, dd = torch.zeros_like(A), torch.ones_like(B)")
    (culprit,) = backhand.check(from_text(wrong), stress=False).culprits
    assert "torch.ones_like(B)" in culprit.lines[0].text
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "repeated_branch"


LISTED_MEANS = '''
"""A mean that fades, each of its states with a gradient of its own."""
import torch

def forward(rows, rate):
    mean, means = torch.zeros_like(rows[0]), []
    for row in rows:
        means.append(mean)
        mean = rate * mean + row
    return {"means": means, "loss": mean.pow(2).sum(), "last": mean}

def backward(rows, rate, means, last):
    drows, drate, dmeans = torch.zeros_like(rows), torch.zeros_like(rate), []
    g = 2 * last
    for t in reversed(range(len(rows))):
        drows[t] = g
        drate += (g * means[t]).sum(0)
        g *= rate
        dmeans.append(g.clone())
    dmeans.reverse()
    return {"dmeans": dmeans, "drows": drows, "drate": drate}

def inputs(generator):
    return {"rows": torch.randn(4, 3, 2, generator=generator), "rate": torch.rand(2, generator=generator)}
'''


def test_one_tensor_that_every_turn_appends_anew_is_one_culprit() -> None:
    assert backhand.check(from_text(LISTED_MEANS)).ok
    wrong = LISTED_MEANS.replace("dmeans.append(g.clone())", "dmeans.append(g)")
    (culprit,) = backhand.check(from_text(wrong), stress=False).culprits
    assert culprit.mistake is not None
    assert culprit.mistake.kind == "aliased"
    assert culprit.lines[0].text.strip() == "dmeans.append(g)"


def test_a_sum_over_chunks_that_is_overwritten_is_told_on_its_line() -> None:
    """A backward may go through what does not depend on one another from the first to the last."""

    def forward(x, w):
        ys = []
        for at in range(0, 6, 2):
            z = x[at : at + 2] @ w
            ys.append(torch.tanh(z))
        y = torch.cat(ys)
        return locals()

    def backward(dy, x, w, y):
        dx = torch.zeros_like(x)
        dw = torch.zeros_like(w)
        for at in range(0, 6, 2):
            dz = dy[at : at + 2] * (1 - y[at : at + 2] ** 2)
            dx[at : at + 2] = dz @ w.T
            dw = x[at : at + 2].T @ dz
        return locals()

    def inputs(generator):
        return {"x": torch.randn(6, 3, generator=generator), "w": torch.randn(3, 4, generator=generator)}

    (row,) = backhand.check(forward, backward, inputs=inputs, out="y").culprits
    assert row.lines[0].text == "dw = x[at : at + 2].T @ dz"
