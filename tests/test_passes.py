import ast
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import backhand
from backhand import Contexts, TrainConfig, Vocabulary, load_words, split_words
from backhand.language.model import draw_parameters
from backhand.learning.course import course
from backhand.passes import (
    attention,
    cross_entropy,
    cross_entropy_fused,
    gelu,
    layer_norm,
    mlp_chunked,
    mlp_fused,
    multi_head_attention,
    rms_norm,
    swiglu,
)

# in the order of the lecture's cmp lines
LECTURE_GRADIENTS = """
    logprobs probs counts_sum_inv counts_sum counts norm_logits logit_maxes
    logits h W2 b2 hpreact bngain bnbias
    bnraw bnvar_inv bnvar bndiff2 bndiff bnmeani hprebn
    embcat W1 b1 emb C
"""


def minibatch(dtype: torch.dtype) -> dict[str, Tensor]:
    """The arguments of a forward: the first minibatch of the embedded names, drawn as the lecture draws."""
    config = TrainConfig(n_hidden=64)
    words = load_words("names")
    vocabulary = Vocabulary.of(words)
    contexts = Contexts(split_words(words).train, vocabulary, 3)
    generator = torch.Generator().manual_seed(config.seed)
    parameters = draw_parameters(config, len(vocabulary), generator)
    Xb, Yb = contexts[torch.randint(0, len(contexts), (32,), generator=generator)]
    return {"Xb": Xb, "Yb": Yb} | {name: p.to(dtype) for name, p in parameters.items()}


def both_gradients(
    textbook: ModuleType, arguments: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the hand-written gradients, and autograd's, by the name of their tensor."""
    leaves = {name: t.requires_grad_(t.is_floating_point()) for name, t in arguments.items()}
    tensors = textbook.forward(**leaves)
    inner = {name: t for name, t in tensors.items() if isinstance(t, Tensor) and t.requires_grad}
    expected = dict(zip(inner, torch.autograd.grad(tensors["loss"], list(inner.values())), strict=True))
    with torch.no_grad():
        hand = textbook.backward(
            **{name: tensors[name] for name in inspect.signature(textbook.backward).parameters}
        )
    return {name[1:]: t for name, t in hand.items() if name[1:] in expected}, expected


def test_the_chunked_pass_gives_the_lectures_26_gradients() -> None:
    hand, expected = both_gradients(mlp_chunked, minibatch(torch.float32))
    names = LECTURE_GRADIENTS.split()
    assert set(hand) == set(names)
    assert len(hand) == 26
    for name in names:
        assert hand[name].shape == expected[name].shape, name
        assert hand[name].dtype == expected[name].dtype, name
        assert (hand[name] - expected[name]).abs().max() < 1e-7, name


@pytest.mark.parametrize("textbook", [mlp_chunked, mlp_fused])
def test_in_float64_every_gradient_is_autograds(textbook: ModuleType) -> None:
    hand, expected = both_gradients(textbook, minibatch(torch.float64))
    assert set(hand) >= {
        "logits",
        "h",
        "hpreact",
        "hprebn",
        "embcat",
        "emb",
        "C",
        "W1",
        "b1",
        "W2",
        "b2",
        "bngain",
        "bnbias",
    }
    for name, gradient in hand.items():
        assert gradient.shape == expected[name].shape, name
        assert gradient.dtype == torch.float64
        assert (gradient - expected[name]).abs().max() < 1e-16 + 1e-13 * expected[name].abs().max(), name


def test_the_two_lines_of_the_fused_pass_agree_to_1e_8() -> None:
    hand, expected = both_gradients(mlp_fused, minibatch(torch.float32))
    for name in ("logits", "hprebn"):
        assert hand[name].shape == expected[name].shape
        assert (hand[name] - expected[name]).abs().max() < 1e-8, name


def test_a_symbol_that_occurs_twice_gets_both_gradients() -> None:
    arguments = minibatch(torch.float64)
    arguments["Xb"] = torch.full_like(arguments["Xb"], 5)
    arguments["Xb"][0] = 7  # batch norm needs some variance
    hand, expected = both_gradients(mlp_chunked, arguments)
    assert (hand["C"] - expected["C"]).abs().max() < 1e-13
    assert hand["C"][5].abs().max() > 1e-3
    assert torch.equal(hand["C"][6], torch.zeros(10, dtype=torch.float64))


def test_passes_import_nothing_but_torch_and_each_other() -> None:
    for file in Path(mlp_chunked.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] in ("torch", "math") for alias in node.names), file
            if isinstance(node, ast.ImportFrom):
                of_annotations = node.module == "collections.abc"
                assert of_annotations or node.level == 1 or str(node.module).split(".")[0] == "torch", file


def test_backwards_have_no_python_loops() -> None:
    for textbook in (mlp_chunked, mlp_fused):
        nodes = ast.walk(ast.parse(inspect.getsource(textbook.backward)))
        assert not any(isinstance(node, ast.For | ast.While | ast.comprehension) for node in nodes)


# Layers that work along their last axes, with the input that has others before it, and how many are its own.
LAYERS: dict[ModuleType, dict[str, int]] = {
    layer_norm: {"x": 1},
    rms_norm: {"x": 1},
    gelu: {"x": 1},
    swiglu: {"x": 1},
    cross_entropy: {"logits": 1, "targets": 0},
    cross_entropy_fused: {"logits": 1, "targets": 0},
    attention: {"q": 2, "k": 2, "v": 2},
    multi_head_attention: {"x": 2},
}


def with_axes(layer: ModuleType, leading: tuple[int, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """Draw a layer's inputs with these axes before its own."""
    generator = torch.Generator().manual_seed(3)
    drawn = layer.inputs(generator)
    for name, own in LAYERS[layer].items():
        old = drawn[name]
        shape = (*leading, *old.shape[old.dim() - own :])
        if old.is_floating_point():
            drawn[name] = torch.randn(shape, generator=generator)
        else:
            drawn[name] = torch.randint(0, 5, shape, generator=generator)
    return {k: in_dtype(v, dtype) for k, v in drawn.items()}


def as_drawn(layer: ModuleType, dtype: torch.dtype) -> dict[str, Tensor]:
    """Draw a layer's own inputs."""
    return {k: in_dtype(v, dtype) for k, v in layer.inputs(torch.Generator().manual_seed(0)).items()}


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def name_of(layer: ModuleType) -> str:
    return layer.__name__.rpartition(".")[2]


@pytest.mark.parametrize("leading", [(3,), (2, 3), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=name_of)
def test_a_layer_takes_any_axes_before_its_own(layer: ModuleType, leading: tuple[int, ...]) -> None:
    inputs = with_axes(layer, leading, torch.float64)
    report = backhand.check(layer.forward, layer.backward, inputs=inputs, out=out_of(layer), draws=1)
    assert report.ok, str(report)


OTHERS = [
    exercise.solution for exercise in course() if exercise.name not in {name_of(layer) for layer in LAYERS}
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", [*LAYERS, *OTHERS], ids=name_of)
def test_a_layer_computes_in_the_dtype_and_on_the_device_of_its_inputs(
    layer: ModuleType, dtype: torch.dtype
) -> None:
    inputs = with_axes(layer, (2, 3), dtype) if layer in LAYERS else as_drawn(layer, dtype)
    report = backhand.check(layer.forward, layer.backward, inputs=inputs, out=out_of(layer), draws=1)
    assert report.ok, str(report)
    made = layer.forward(**{k: on_meta(v) for k, v in inputs.items()})  # a device that is not the default one
    ends = made[out_of(layer) or "loss"]
    made |= {f"d{out_of(layer) or 'loss'}": torch.ones_like(ends)}
    given = {name: made.get(name, inputs.get(name)) for name in inspect.signature(layer.backward).parameters}
    given = {k: on_meta(v) for k, v in given.items()}
    for name, gradient in layer.backward(**given).items():
        if isinstance(gradient, Tensor) and gradient.is_floating_point():
            assert (gradient.device.type, gradient.dtype) == ("meta", dtype), name


def on_meta(value: object) -> object:
    if isinstance(value, list):
        return [on_meta(v) for v in value]
    return value.to("meta") if isinstance(value, Tensor) else value


def out_of(layer: ModuleType) -> str | None:
    return getattr(layer, "out", None)
