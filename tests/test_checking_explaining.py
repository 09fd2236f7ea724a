"""The rules that give an answer away: with the user's names, right by autograd, for any operation."""

import re

import pytest
import torch

import backhand
from backhand.checking.explaining import FUNCTIONS, rules
from backhand.passes import layer_norm, mlp_chunked

FORMULAS = [
    "x.tanh()",
    "torch.sigmoid(x)",
    "x.exp()",
    "x.expm1()",
    "x.log()",
    "x.log1p()",
    "torch.sin(x)",
    "torch.cos(x)",
    "x.abs()",
    "softplus(x)",
    "x.square()",
    "x.sqrt()",
    "x.rsqrt()",
    "x.reciprocal()",
    "x.logsumexp(0)",
    "softmax(x, 0)",
    "x.prod()",
    "x.norm()",
    "-x",
    "3 * x",
    "w - x",
    "w / x",
    "x**3",
    "w**x",
    "m @ x",
    "x.clone() * x",
    "torch.logcumsumexp(x, 0)",
    "-(w * x.exp()).sqrt()",
]


@pytest.mark.parametrize("expression", FORMULAS)
def test_a_rule_is_the_gradient_that_autograd_gives(expression: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, w, m = (torch.rand(s, generator=generator, dtype=torch.float64) + 0.5 for s in (4, 4, (4, 4)))
    known: dict = {k: getattr(torch, k) for k in ("exp", "sin", "cos", "sign", "log", "sigmoid")}
    known |= {"softplus": torch.nn.functional.softplus, "torch": torch}
    known |= {"softmax": lambda x, axis=0: torch.softmax(x, axis), "axis": 0}
    known |= {"x": x.requires_grad_(), "w": w, "m": m}
    y = eval(expression, known)
    known |= {"y": y.detach(), "dy": torch.rand(y.shape, generator=generator, dtype=torch.float64)}
    (right,) = torch.autograd.grad(y, x, known["dy"])
    known["x"], total = x.detach(), torch.zeros(4, dtype=torch.float64)
    for rule in rules(f"y = {expression}", "x"):
        rule = re.sub(r"^\w+: ", "", rule).partition(", summed")[0].partition(": no rule")[0]
        if inner := re.fullmatch(r"with (\w+) for `(.*)`: (\w+) gets (.*)", rule):
            known[inner[1]] = eval(inner[2], known)
            known[inner[3]] = eval(inner[4], known)
        else:
            total = total + eval(rule.removeprefix("dx gets "), known)
    assert torch.allclose(total, right), rules(f"y = {expression}", "x")


# what a rule says in words, as code
IN_WORDS = {
    "its mean": "x.mean(0)",
    "(n - correction)": "(4 - 1)",
    " where x > 0, zero elsewhere": " * (x > 0)",
    " where x lies within the bounds, zero elsewhere": " * ((x > 0.7) & (x < 1.2))",
    ", with s = sigmoid(x)": "",
    " divided by the number of elements averaged, expanded over their axis": " / 4 * torch.ones_like(x)",
    "the sum of dy from each place on to the end of the axis": "dy.flip(0).cumsum(0).flip(0)",
    " where the maximum was found, shared among equals, zero elsewhere": " * (x == x.max())",
    " where the maximum was found, zero elsewhere": " * (x == x.max())",
    " where the minimum was found, zero elsewhere": " * (x == x.min())",
    ", zero where the mask is set": ".masked_fill(w > 1, 0)",
    ", expanded over the axis that was summed: a sum is the mirror of broadcasting": " * torch.ones_like(x)",
    ".sum(axis, keepdim=True)": ".sum(0, keepdim=True)",
}


@pytest.mark.parametrize(
    "expression",
    [
        "x.var(0)",
        "x.std(0)",
        "x.mean(0)",
        "x.sum(0)",
        "torch.relu(x)",
        "x.clamp(0.7, 1.2)",
        "silu(x)",
        "x.cumsum(0)",
        "x.max()",
        "x.min()",
        "x.amax(0)",
        "x.masked_fill(w > 1, 0)",
        "torch.log_softmax(x, 0)",
    ],
)
def test_a_rule_that_says_it_in_words_says_what_autograd_does(expression: str) -> None:
    x, w = torch.rand(2, 4, dtype=torch.float64) + 0.5
    x[:2] = torch.tensor([0.6, 1.0])  # one beyond the bounds, one within
    x = (x - 1 if "relu" in expression else x).requires_grad_()
    known: dict = {"x": x, "w": w, "torch": torch, "exp": torch.exp, "sigmoid": torch.sigmoid}
    y = eval(expression, known | {"silu": torch.nn.functional.silu})
    dy = torch.rand(y.shape, dtype=torch.float64)
    (right,) = torch.autograd.grad(y, x, dy)
    (rule,) = rules(f"y = {expression}", "x")
    code = rule.partition("gets ")[2]
    for words, meant in IN_WORDS.items():
        code = code.replace(words, meant)
    known |= {"x": x.detach(), "y": y.detach(), "dy": dy, "s": x.detach().sigmoid()}
    assert torch.allclose(eval(code, known), right), rule


def test_an_operation_without_a_rule_is_answered_by_autograds_own_product() -> None:
    (rule,) = rules("h = torch.erf(z)", "z")
    assert "erf" not in FUNCTIONS
    assert rule.startswith("dz gets torch.func.vjp(lambda z: torch.erf(z), z)[1](dh)[0]: no rule for erf")


def test_a_line_with_several_operations_is_explained_from_the_outermost_inwards() -> None:
    assert rules("h = torch.tanh(embcat @ W1 + b1)", "W1") == [
        "tanh: with r1 for `embcat @ W1 + b1`: dr1 gets (1 - h ** 2) * dh",
        "with r2 for `embcat @ W1`: dr2 gets dr1, summed over the axes along which it was broadcast, if it "
        "was",
        "dW1 gets embcat.T @ dr2",
    ]


def test_every_use_of_a_tensor_has_its_rule() -> None:
    text = backhand.check(mlp_chunked).explain("counts")
    assert text.startswith("counts is used in 2 lines of the forward, and dcounts is the sum of what each")
    assert "dcounts gets dcounts_sum, expanded" in text
    for row in backhand.check(layer_norm).rows:
        explained = backhand.check(layer_norm).explain(row.name)
        assert all(len(rules(line.text, row.name)) > 0 for line in row.used_by), explained


def test_without_source_there_is_no_rule() -> None:
    module: dict = {}
    exec("def forward(x):\n    loss = (x * x).sum()\n    return locals()\n", module)
    report = backhand.check(module["forward"], lambda x: {"dx": 2 * x}, inputs={"x": torch.randn(3)})
    assert report.explain("x") == "dx: no source line of the forward is known that uses x."


def test_a_rule_sums_over_the_axes_of_the_broadcast_and_over_none_where_the_shapes_are_the_same() -> None:
    shapes = {"x": (5, 3), "W": (3, 4), "b": (4,), "z": (5, 4), "s": (5, 1), "y": (5, 4)}
    assert rules("z = x @ W + b", "b", shapes) == ["db gets dz, summed over axis 0"]
    assert rules("z = x @ W + b", "W", shapes)[0].endswith("dr1 gets dz")
    assert rules("y = z * s", "s", shapes) == ["ds gets z * dy, summed over axis 1"]
    assert rules("y = z * s", "z", shapes) == ["dz gets s * dy"]
    # a name that was bound anew: what it held on this line is not known, and no reason to raise
    assert rules("z = x @ (W + y)", "x", shapes) == ["dx gets dz @ (W + y).T"]
    explained = backhand.check(mlp_chunked).explain("bndiff")
    assert "dbndiff gets bnvar_inv * dbnraw" in explained
    assert "summed" not in explained


def test_a_product_with_a_vector_has_a_rule_of_its_own() -> None:
    shapes = {"u": (3,), "v": (3,), "W": (3, 4)}
    assert rules("s = u @ v", "u", shapes) == ["du gets v * ds"]
    assert rules("s = u @ v", "v", shapes) == ["dv gets u * ds"]
    assert rules("y = u @ W", "W", shapes) == ["dW gets outer(u, dy)"]
    assert rules("y = u @ W", "u", shapes) == ["du gets dy @ W.T"]


def test_what_has_no_rule_over_numpy_and_what_is_no_whole_line_raise_nothing() -> None:
    (rule,) = rules("y = np.roll(x, 1)", "x")
    assert rule.endswith(
        "a small step of x in `np.roll(x, 1)` sends back of dy: no rule for roll stands here"
    )
    assert rules("y = torch.stack(", "y") == []


@pytest.mark.parametrize(("line", "name", "rule"), [
    ("p = s.softmax(-1)", "s", "softmax: ds gets p * (dp - (p * dp).sum(-1, keepdim=True))"),
    ("loss = F.cross_entropy(logits, Yb)", "logits",
     "cross_entropy: dlogits gets (softmax(logits) - onehot(Yb)) / n * dloss"),
    ("v = x.var(0, correction=0)", "x", "var: dx gets 2 * (x - its mean) / n * dv"),
    ("y = x ** 2", "x", "dx gets 2 * x * dy"),
    ("y = q @ k.transpose(-2, -1)", "q", "dq gets dy @ k"),
    ("b = a", "a", "da gets db"),
    ("hs.append(h)", "h", "dh gets its own entry of dhs"),
    ("out[:, t] = s", "s", "ds gets dout[:, t]"),
    ("q, k = (part.relu() for part in x.split(d, -1))", "x",
     "split: dx gets dr1, put together as the parts were"),
])  # fmt: skip
def test_a_rule_is_told_in_the_names_of_its_line(line: str, name: str, rule: str) -> None:
    assert rules(line, name)[-1] == rule


def test_a_matrix_that_several_axes_use_sums_over_them() -> None:
    shapes = {"x": (2, 5, 3), "W": (3, 4), "y": (2, 5, 4), "v": (4,)}
    told = "dW gets x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])"
    assert rules("y = x @ W", "W", shapes) == [told]
    assert rules("y = x @ W", "x", shapes) == ["dx gets dy @ W.T"]
    assert rules("z = W @ v", "W", shapes) == ["dW gets outer(dz, v)"]
    assert rules("z = W @ v", "v", shapes) == ["dv gets W.T @ dz"]
