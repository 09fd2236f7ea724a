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


def test_an_operation_without_a_rule_is_answered_by_autograds_own_product() -> None:
    (rule,) = rules("h = torch.erf(z)", "z")
    assert "erf" not in FUNCTIONS
    assert rule.startswith("dz gets torch.func.vjp(lambda z: torch.erf(z), z)[1](dh)[0]: no rule for erf")


def test_a_line_with_several_operations_is_explained_from_the_outermost_inwards() -> None:
    assert rules("h = torch.tanh(embcat @ W1 + b1)", "W1") == [
        "tanh: with r1 for `embcat @ W1 + b1`: dr1 gets (1 - h ** 2) * dh",
        "with r2 for `embcat @ W1`: dr2 gets dr1, summed over the axes along which it was broadcast",
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
