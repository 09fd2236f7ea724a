import inspect
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import backhand
from backhand.engines import adamw
from backhand.passes import (
    bigram_fused,
    bigram_model,
    gru_fused,
    gru_model,
    rnn_fused,
    rnn_model,
    transformer_fused,
    transformer_model,
)

FUSED = {
    bigram_model: bigram_fused,
    rnn_model: rnn_fused,
    gru_model: gru_fused,
    transformer_model: transformer_fused,
}
MODELS = tuple(FUSED)


def inputs(model: ModuleType) -> dict[str, Any]:
    """Draws for a model, or for the one whose fused form it is."""
    chunked = next(each for each, fused in FUSED.items() if model in (each, fused))
    return chunked.inputs(torch.Generator().manual_seed(3))


@pytest.mark.parametrize("model", [*MODELS, *FUSED.values()])
def test_every_gradient_of_a_whole_model_is_autograds(model: ModuleType) -> None:
    arguments = inputs(model)
    leaves = {
        name: t.double().requires_grad_() if isinstance(t, Tensor) and t.is_floating_point() else t
        for name, t in arguments.items()
    }
    tensors = model.forward(**leaves)
    names = [name for name, t in leaves.items() if isinstance(t, Tensor) and t.requires_grad]
    expected = torch.autograd.grad(tensors["loss"], [leaves[name] for name in names])
    with torch.no_grad():
        saved = {name: tensors[name] for name in inspect.signature(model.backward).parameters}
        hand = model.backward(**saved)
    for name, gradient in zip(names, expected, strict=True):
        assert hand[f"d{name}"].shape == gradient.shape, name
        assert (hand[f"d{name}"] - gradient).abs().max() < 1e-13, name


@pytest.mark.parametrize("model", MODELS)
def test_our_own_check_finds_nothing_wrong(model: ModuleType) -> None:
    report = backhand.check(model)
    assert report.ok, str(report)


@pytest.mark.parametrize("model", MODELS)
def test_our_own_check_finds_nothing_wrong_in_the_fused_form(model: ModuleType) -> None:
    report = backhand.check(FUSED[model], inputs=model.inputs)
    assert report.ok, str(report)


@pytest.mark.parametrize("model", MODELS)
def test_the_fused_form_has_the_same_loss(model: ModuleType) -> None:
    losses = [each.forward(**inputs(each))["loss"].item() for each in (model, FUSED[model])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_padding_changes_nothing() -> None:
    arguments = rnn_model.inputs(torch.Generator().manual_seed(3))
    longer = arguments | {
        "Xb": torch.nn.functional.pad(arguments["Xb"], (0, 4)),
        "Yb": torch.nn.functional.pad(arguments["Yb"], (0, 4), value=-1),
    }
    assert torch.allclose(rnn_model.forward(**longer)["loss"], rnn_model.forward(**arguments)["loss"])


def test_adamw_takes_the_steps_of_pytorchs() -> None:
    torch.manual_seed(0)
    ours = {"W": torch.randn(7, 5), "b": torch.randn(5)}
    theirs = {name: p.clone() for name, p in ours.items()}
    moments = [{name: torch.zeros_like(p) for name, p in ours.items()} for _ in range(2)]
    optimiser = torch.optim.AdamW(theirs.values(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(1, 51):
        gradients = {f"d{name}": torch.randn_like(p) for name, p in ours.items()}
        for name, p in theirs.items():
            p.grad = gradients[f"d{name}"]
        optimiser.step()
        adamw.update(ours, gradients, *moments, rate=0.01, weight_decay=0.1, step=step)
    for name, p in theirs.items():
        assert (ours[name] - p).abs().max() < 1e-6
