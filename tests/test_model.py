import pytest
import torch

from backhand import Contexts, Run, TrainConfig, Vocabulary, load_words, split_words
from backhand.language.model import Model, calibrate, count_parameters, draw_parameters


@pytest.mark.parametrize(
    ("n_embd", "n_hidden", "vocab_size", "expected"),
    [(10, 64, 27, 4_137), (10, 200, 27, 12_297), (30, 300, 27, 36_837), (10, 64, 29, 4_287)],
)
def test_the_lectures_sizes_give_the_lectures_parameter_counts(
    n_embd: int, n_hidden: int, vocab_size: int, expected: int
) -> None:
    config = TrainConfig(n_embd=n_embd, n_hidden=n_hidden)
    assert count_parameters(draw_parameters(config, vocab_size, torch.Generator())) == expected


def test_parameters_and_minibatches_come_from_one_stream_as_in_the_lecture() -> None:
    config = TrainConfig(n_hidden=64)
    ours = torch.Generator().manual_seed(config.seed)
    parameters = draw_parameters(config, 27, ours)
    g = torch.Generator().manual_seed(2147483647)
    C = torch.randn((27, 10), generator=g)
    W1 = torch.randn((30, 64), generator=g) * (5 / 3) / (30**0.5)
    b1 = torch.randn(64, generator=g) * 0.1
    W2 = torch.randn((64, 27), generator=g) * 0.1
    b2 = torch.randn(27, generator=g) * 0.1
    for name, expected in {"C": C, "W1": W1, "b1": b1, "W2": W2, "b2": b2}.items():
        assert torch.equal(parameters[name], expected), name
    next_of_the_lecture = torch.randint(0, 1000, (32,), generator=g)
    assert torch.equal(torch.randint(0, 1000, (32,), generator=ours), next_of_the_lecture)
    second = torch.Generator().manual_seed(config.seed + 1)
    assert torch.equal(parameters["bngain"], torch.randn((1, 64), generator=second) * 0.1 + 1.0)
    assert torch.equal(parameters["bnbias"], torch.randn((1, 64), generator=second) * 0.1)
    assert list(parameters) == ["C", "W1", "b1", "W2", "b2", "bngain", "bnbias"]


def drawn(words: list[str]) -> tuple[dict[str, torch.Tensor], Contexts, Vocabulary]:
    vocabulary = Vocabulary.of(words)
    parameters = draw_parameters(TrainConfig(n_hidden=40), len(vocabulary), torch.Generator().manual_seed(7))
    return parameters, Contexts(split_words(words).train, vocabulary, 3), vocabulary


def test_calibration_is_the_mean_and_deviation_over_the_whole_split() -> None:
    parameters, contexts, _ = drawn(load_words("municipios")[:3000])
    X, _ = contexts[:]
    hprebn = (parameters["C"][X].flatten(1) @ parameters["W1"] + parameters["b1"]).double()
    bnmean, bnstd = calibrate(parameters, contexts)
    assert bnmean.shape == bnstd.shape == (1, 40)
    assert bnmean.dtype == bnstd.dtype == torch.float32
    torch.testing.assert_close(bnmean.double(), hprebn.mean(0, keepdim=True), rtol=1e-6, atol=1e-7)
    expected = (hprebn.var(0, keepdim=True, correction=1) + 1e-5).sqrt()
    torch.testing.assert_close(bnstd.double(), expected, rtol=1e-6, atol=0)


def test_the_loss_is_the_mean_cross_entropy_over_every_context() -> None:
    parameters, contexts, vocabulary = drawn(load_words("names")[:2000])
    model = Model(vocabulary, parameters, *calibrate(parameters, contexts))
    X, Y = contexts[:]
    expected = torch.nn.functional.cross_entropy(model.logits(X).double(), Y).item()
    assert model.loss(contexts) == pytest.approx(expected, abs=1e-6)


def test_the_logits_of_a_minibatch_with_its_own_statistics_are_the_passes_logits(small_run: Run) -> None:
    from backhand.passes import mlp_chunked

    X, Y = small_run.contexts().train[:50]
    tensors = mlp_chunked.forward(X, Y, **small_run.model.parameters)
    model = Model(
        small_run.vocabulary, small_run.model.parameters, tensors["bnmeani"], 1 / tensors["bnvar_inv"]
    )
    torch.testing.assert_close(model.logits(X), tensors["logits"])
