"""The native engines of the models of whole words, held to plain PyTorch: autograd and torch's AdamW."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numba import njit
from torch import Tensor

from backhand import Vocabulary, load_words
from backhand.benching import word_peers
from backhand.engines import dropping
from backhand.engines.kernels import product
from backhand.engines.native_words import Moments, Settings, take_steps, total_loss
from backhand.engines.tries import rows_of
from backhand.language.contexts import Contexts
from word_batches import random_batches

KINDS = ("rnn", "gru", "transformer")


def model(kind: str, settings: Settings) -> word_peers.Model:
    """The logits of a model, for its parameters, words and the number of the step."""
    if kind != "transformer":
        return word_peers.plain_model(kind)

    def logits(p: dict[str, Tensor], X: Tensor, step: int) -> Tensor:
        ask = {"rate": settings.dropout, "seed": settings.seed, "step": settings.steps_before + step}
        masks = dropping.masks(X, *p["gain1"].shape, **ask) if settings.dropout else None
        return word_peers.transformer(p, X, settings.heads, masks)

    return logits


def fresh(parameters: dict[str, Tensor]) -> tuple[dict[str, Tensor], Moments]:
    """A copy of the parameters, and moments as they are at first."""
    zeros = [{name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2)]
    return {name: p.clone() for name, p in parameters.items()}, Moments(*zeros)


def name_batches(steps: int, n: int, T: int) -> tuple[Tensor, Tensor]:
    """Minibatches of the embedded names."""
    words = load_words("names")
    X, Y, _ = Contexts(words, Vocabulary.of(words), T - 1).whole
    which = torch.randint(0, len(X), (steps, n))
    return X[which], Y[which]


CASES = [
    ("rnn", {}),
    ("gru", {}),
    ("transformer", {"heads": 4}),
    ("transformer", {"heads": 4, "dropout": 0.2, "seed": 2**40 + 1}),
]


@pytest.mark.seconds
@pytest.mark.parametrize(("kind", "more"), CASES)
def test_200_steps_on_names_give_the_losses_of_plain_pytorch(kind: str, more: dict[str, Any]) -> None:
    Xs, Ys = name_batches(200, 16, 12)
    initial = word_peers.draw(word_peers.shapes_of(kind, V=27, e=24, m=24))
    rates = [4e-3 * (1 - step / 400) for step in range(200)]
    settings = Settings(weight_decay=0.1, **more)
    expected, _ = word_peers.train(model(kind, settings), initial, Xs, Ys, rates, 0.1)
    parameters, moments = fresh(initial)
    losses = take_steps(kind, parameters, Xs, Ys, rates, moments, settings)
    assert losses.dtype == torch.float32
    assert (losses.double() - expected).abs().max() < 1e-5
    assert losses[-50:].mean() < losses[:50].mean() - 0.1  # it has learnt something meanwhile


SIZES = [{"V": 5, "e": 7, "m": 3}, {"V": 17, "e": 16, "m": 33}, {"V": 2, "e": 1, "m": 1}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("n", "T"), [(1, 1), (2, 9), (45, 5)])
def test_any_sizes_give_the_parameters_of_plain_pytorch(
    kind: str, sizes: dict[str, int], n: int, T: int
) -> None:
    initial = word_peers.draw(word_peers.shapes_of(kind, **sizes, T=9))
    Xs, Ys = random_batches(3, n, T, sizes["V"])
    rates = [0.01, 0.02, 0.03]
    settings = Settings(weight_decay=0.2, heads=3 if sizes["m"] % 3 == 0 else 1, dropout=0.3, seed=n)
    losses, expected = word_peers.train(model(kind, settings), initial, Xs, Ys, rates, 0.2)
    parameters, moments = fresh(initial)
    found = take_steps(kind, parameters, Xs, Ys, rates, moments, settings)
    assert (found.double() - losses).abs().max() < 2e-6
    for name, p in parameters.items():
        # AdamW divides by the root of the second moment: where a gradient is as small as its rounding, a
        # parameter may go the other way, by as much as the rate
        sound = moments.second[name].sqrt() > 1e-5
        assert ((p - expected[name]).abs() * sound).max() < 1e-4, name
        assert ((p - expected[name]).abs() <= 2 * sum(rates)).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_same_bit_for_bit_however_they_are_cut_into_calls(kind: str) -> None:
    initial = word_peers.draw(word_peers.shapes_of(kind, V=9, e=6, m=18))
    Xs, Ys = random_batches(12, 10, 6, 9)
    rates = [0.01] * 12
    at_once, moments = fresh(initial)
    settings = Settings(heads=2, dropout=0.5)
    losses = take_steps(kind, at_once, Xs, Ys, rates, moments, settings)
    cut, kept = fresh(initial)
    parts = [
        take_steps(kind, cut, Xs[a:b], Ys[a:b], rates[a:b], kept, replace(settings, steps_before=a))
        for a, b in ((0, 1), (1, 8), (8, 12))
    ]
    assert torch.equal(torch.cat(parts), losses)
    for ours, theirs in zip((at_once, *moments), (cut, *kept), strict=True):
        assert all(torch.equal(p, theirs[name]) for name, p in ours.items())


@pytest.mark.parametrize("kind", KINDS)
def test_words_in_another_order_give_the_same_step(kind: str) -> None:
    initial = word_peers.draw(word_peers.shapes_of(kind, V=9, e=6, m=18))
    Xs, Ys = random_batches(1, 40, 6, 9)
    order = torch.randperm(40)
    losses = [
        take_steps(kind, *fresh(initial)[:1], Xs[:, way], Ys[:, way], [0.0], fresh(initial)[1], Settings())
        for way in (torch.arange(40), order)
    ]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-6)


def test_a_symbol_beyond_the_vocabulary_is_refused() -> None:
    initial = word_peers.draw(word_peers.shapes_of("rnn", V=9, e=6, m=18))
    parameters, moments = fresh(initial)
    for beyond in (9, -2):
        for wrong in range(2):
            batches = random_batches(2, 4, 6, 9)
            batches[wrong][1, 2, 0] = beyond
            with pytest.raises(IndexError, match="from 0 to 8"):
                take_steps("rnn", parameters, *batches, [0.1] * 2, moments, Settings())
    assert all(torch.equal(p, initial[name]) for name, p in parameters.items())


def test_words_with_more_positions_than_the_transformer_has_are_refused() -> None:
    initial = word_peers.draw(word_peers.shapes_of("transformer", V=9, e=6, m=6, T=5))
    with pytest.raises(IndexError, match="words of 6 positions, in a model of 5"):
        take_steps(
            "transformer",
            *fresh(initial)[:1],
            *random_batches(1, 4, 6, 9),
            [0.1],
            fresh(initial)[1],
            Settings(),
        )


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_words_is_that_of_plain_pytorch_and_nothing_is_learnt(kind: str) -> None:
    initial = word_peers.draw(word_peers.shapes_of(kind, V=17, e=16, m=33))
    Xs, Ys = random_batches(1, 150, 7, 17)  # more than are evaluated at once, and no multiple of them
    settings = Settings(heads=3)
    logits = model(kind, settings)(initial, Xs[0], 0)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), Ys[0].flatten(), ignore_index=-1, reduction="sum"
    )
    parameters, _ = fresh(initial)
    found = total_loss(kind, parameters, Xs[0], Ys[0], settings)
    assert found == pytest.approx(expected.item(), rel=1e-6)
    assert all(torch.equal(p, initial[name]) for name, p in parameters.items())


def test_the_words_of_an_evaluation_are_held_to_the_vocabulary() -> None:
    initial = word_peers.draw(word_peers.shapes_of("rnn", V=9, e=6, m=18))
    Xs, Ys = random_batches(1, 4, 6, 9)
    Xs[0, 2, 3] = 9
    with pytest.raises(IndexError, match="from 0 to 8"):
        total_loss("rnn", initial, Xs[0], Ys[0], Settings())


@pytest.mark.parametrize("rows", range(1, 18))
def test_a_product_writes_at_most_one_row_beyond_its_own(rows: int) -> None:
    a, b = (np.random.default_rng(rows).standard_normal((20, 16), np.float32) for _ in range(2))
    out = np.full((20, 16), 7, np.float32)
    multiplied(a, b[:16], out, rows, 16)
    assert np.allclose(out[:rows], a[:rows] @ b[:16], atol=1e-5)
    assert (out[rows + 1 :] == 7).all()


@pytest.mark.parametrize(("words", "positions"), [(1, 16), (2, 8), (1, 1), (5, 7)])
def test_there_is_room_for_that_row_whatever_the_shape(words: int, positions: int) -> None:
    assert rows_of(words, positions) > words * positions


@njit
def multiplied(a: np.ndarray, b: np.ndarray, out: np.ndarray, rows: int, depth: int) -> None:
    """`product`, for Python to call."""
    product(a, b, out, rows, depth)
