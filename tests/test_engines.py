from typing import get_args

import pytest
import torch
from torch import Tensor

from backhand import Contexts, TrainConfig, Vocabulary, load_words, split_words
from backhand.engines import ENGINES, Running
from backhand.engines.graphed import counted_step
from backhand.engines.nonfinite import first_nonfinite
from backhand.engines.stepping import by_hand
from backhand.language.config import EngineName
from backhand.language.model import draw_parameters
from backhand.passes import mlp_fused

Minibatches = tuple[dict[str, Tensor], Tensor, Tensor]


def minibatches(
    steps: int, n_hidden: int = 64, batch_size: int = 32, dtype: torch.dtype = torch.float32
) -> Minibatches:
    """Parameters and minibatches of the embedded names, as training draws them."""
    config = TrainConfig(n_hidden=n_hidden)
    words = load_words("names")
    vocabulary = Vocabulary.of(words)
    contexts = Contexts(split_words(words).train, vocabulary, config.block_size)
    generator = torch.Generator().manual_seed(config.seed)
    parameters = draw_parameters(config, len(vocabulary), generator)
    Xs, Ys = contexts[torch.randint(0, len(contexts), (steps, batch_size), generator=generator)]
    return {name: p.to(dtype) for name, p in parameters.items()}, Xs, Ys


def test_every_engine_that_can_be_chosen_is_there() -> None:
    assert set(ENGINES) == set(get_args(EngineName))


@pytest.fixture(scope="module")
def float64_curve() -> Tensor:
    parameters, Xs, Ys = minibatches(2000, dtype=torch.float64)
    return ENGINES["autograd"](parameters, Xs, Ys, [0.1] * 2000)


@pytest.mark.seconds
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_same_loss_curve_over_2000_steps(engine: str, float64_curve: Tensor) -> None:
    parameters, Xs, Ys = minibatches(2000)
    losses = ENGINES[engine](parameters, Xs, Ys, [0.1] * 2000)
    assert losses.dtype == torch.float32
    assert losses.shape == (2000,)
    assert (losses.double() - float64_curve).abs().max() < 2e-6
    assert losses[-200:].mean() < losses[:200].mean() - 0.3  # it has learnt something meanwhile


@pytest.mark.parametrize("engine", ENGINES)
def test_each_step_has_its_own_rate(engine: str) -> None:
    parameters, Xs, Ys = minibatches(3)
    before = {name: p.clone() for name, p in parameters.items()}
    ENGINES[engine](parameters, Xs, Ys, [0.0, 0.0, 0.0])
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())
    ENGINES[engine](parameters, Xs, Ys, [0.0, 0.0, 0.1])
    expected = {name: p.clone() for name, p in before.items()}
    ENGINES[engine](expected, Xs[2:], Ys[2:], [0.1])
    assert all(torch.equal(p, expected[name]) for name, p in parameters.items())
    assert not torch.equal(parameters["W1"], before["W1"])


@pytest.mark.parametrize("engine", ENGINES)
def test_how_steps_are_split_into_calls_changes_nothing(engine: str) -> None:
    parameters, Xs, Ys = minibatches(12)
    at_once = {name: p.clone() for name, p in parameters.items()}
    rates = [0.1] * 12
    losses = ENGINES[engine](at_once, Xs, Ys, rates)
    cuts = [(0, 1), (1, 8), (8, 12)]
    parts = [ENGINES[engine](parameters, Xs[a:b], Ys[a:b], rates[a:b]) for a, b in cuts]
    assert torch.equal(torch.cat(parts), losses)
    assert all(torch.equal(p, at_once[name]) for name, p in parameters.items())


@pytest.mark.parametrize("engine", ENGINES)
def test_running_statistics_follow_the_minibatches(engine: str) -> None:
    parameters, Xs, Ys = minibatches(5)
    fixed = {name: p.clone() for name, p in parameters.items()}
    running = Running(torch.zeros(1, 64), torch.ones(1, 64))
    ENGINES[engine](parameters, Xs, Ys, [0.0] * 5, running)
    bnmean, bnstd = torch.zeros(1, 64), torch.ones(1, 64)
    for Xb in Xs:
        hprebn = fixed["C"][Xb].flatten(1) @ fixed["W1"] + fixed["b1"]
        bnmean = 0.999 * bnmean + 0.001 * hprebn.mean(0, keepdim=True)
        bnstd = 0.999 * bnstd + 0.001 * hprebn.std(0, keepdim=True)
    torch.testing.assert_close(running.bnmean, bnmean)
    torch.testing.assert_close(running.bnstd, bnstd)


@pytest.mark.parametrize("engine", ["fused", "chunked"])
def test_the_first_non_finite_tensor_is_found_where_it_arises(engine: str) -> None:
    parameters, Xs, Ys = minibatches(6)
    assert first_nonfinite(engine, parameters, Xs, Ys, [0.1] * 6) is None
    before = {name: p.clone() for name, p in parameters.items()}
    assert first_nonfinite(engine, parameters, Xs, Ys, [0.1, 0.1, 0.1, float("inf"), 0.1, 0.1]) == (3, "C")
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())
    parameters["W2"][0, 0] = float("nan")
    assert first_nonfinite(engine, parameters, Xs, Ys, [0.1] * 6) == (0, "W2")
    parameters["W2"][0, 0] = 0.0
    parameters["bngain"] = torch.full_like(parameters["bngain"], 3e38)
    step, name = first_nonfinite(engine, parameters, Xs, Ys, [0.1] * 6) or (None, None)
    assert (step, name) == (0, "hpreact")


def test_running_deviations_are_without_the_epsilon_of_the_normalisation() -> None:
    running = Running(torch.zeros(1, 2), torch.ones(1, 2))
    running.update(torch.tensor([[3.0, -1.0]]), torch.tensor([[1e-6, 4.0]]))
    torch.testing.assert_close(running.bnmean, torch.tensor([[0.003, -0.001]]))
    torch.testing.assert_close(running.bnstd, torch.tensor([[0.999 + 1e-6, 0.999 + 2e-3]]), rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("engine", "origin"),
    [("chunked", "bndiff2"), ("fused", "bnvar"), ("native", "bnvar"), ("autograd", "bnvar")],
)
def test_the_origin_is_a_tensor_of_the_lines_that_the_engine_computes(engine: str, origin: str) -> None:
    parameters, Xs, Ys = minibatches(2)
    parameters["W1"] = parameters["W1"] * 1e25  # its square is beyond float32
    assert first_nonfinite(engine, parameters, Xs, Ys, [0.1] * 2) == (0, origin)


def test_a_step_that_counts_for_itself_is_the_plain_step_bit_for_bit() -> None:
    parameters, Xs, Ys = minibatches(20)
    counting = {name: p.clone() for name, p in parameters.items()}
    rates = [0.1 / (1 + k) for k in range(20)]
    kept = [Running(torch.zeros(1, 64), torch.ones(1, 64)) for _ in range(2)]
    expected = ENGINES["fused"](parameters, Xs, Ys, rates, kept[0])
    with torch.no_grad():
        step, losses = counted_step(by_hand(mlp_fused), counting, Xs, Ys, rates, kept[1])
        for _ in rates:
            step()
    assert torch.equal(losses, expected)
    assert all(torch.equal(p, counting[name]) for name, p in parameters.items())
    assert all(map(torch.equal, *kept))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_replayed_graph_keeps_running_statistics_and_rates_as_plain_steps_do() -> None:
    parameters, Xs, Ys = minibatches(20)
    rates = [0.1 / (1 + k) for k in range(20)]
    moved = {name: p.cuda() for name, p in parameters.items()}
    kept = [Running(torch.zeros(1, 64, device=d), torch.ones(1, 64, device=d)) for d in ("cpu", "cuda")]
    expected = ENGINES["fused"](parameters, Xs, Ys, rates, kept[0])
    for begin, end in ((0, 1), (1, 3), (3, 20)):
        part = ENGINES["fused"](moved, Xs[begin:end].cuda(), Ys[begin:end].cuda(), rates[begin:end], kept[1])
        torch.testing.assert_close(part.cpu(), expected[begin:end], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat(kept[1]).cpu(), torch.cat(kept[0]), rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("engine", ["autograd", "chunked", "fused"])
def test_on_a_gpu_the_loss_curve_is_the_same(engine: str, float64_curve: Tensor) -> None:
    parameters, Xs, Ys = minibatches(2000)
    parameters = {name: p.cuda() for name, p in parameters.items()}
    losses = ENGINES[engine](parameters, Xs.cuda(), Ys.cuda(), [0.1] * 2000)
    assert losses.is_cuda
    assert (losses.cpu().double() - float64_curve).abs().max() < 1e-5
