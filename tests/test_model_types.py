import dataclasses
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest
import torch

from backhand import ConfigError, Run, TrainConfig, evaluate, sample, train
from backhand.language.recipes import CONFIGS, WordConfig
from backhand.language.training import TrainingInterrupted

TYPES = ("bigram", "rnn", "gru", "transformer")


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    stems = ("ana", "bel", "cora", "dan", "eli", "fen")
    path.write_text("\n".join(a + b for a in stems for b in stems))
    return path


def small(kind: str, words: Path, **more: object) -> WordConfig:
    config = CONFIGS[kind](words=str(words), engine="chunked", n_embd=8, n_hidden=9, batch_size=5, steps=40)
    assert isinstance(config, WordConfig)
    return dataclasses.replace(config, **{"layers": 2, "heads": 2, **more})


@pytest.mark.seconds
@pytest.mark.parametrize("kind", TYPES)
def test_a_run_of_each_type_is_trained_saved_measured_and_sampled(
    kind: str, words: Path, tmp_path: Path
) -> None:
    run = train(small(kind, words), out=tmp_path / "run")
    again = Run.load(tmp_path / "run")
    assert again.config == run.config
    losses = {score.words: score.loss for score in evaluate(again)}
    assert losses == pytest.approx(run.results)
    assert losses["train"] < 2.45  # ln 12 = 2.48 of guessing blindly
    assert len(sample(again, n=3, prefix="be")) == 3


@pytest.mark.seconds
@pytest.mark.parametrize("kind", TYPES)
def test_the_loss_is_that_of_the_probabilities_from_which_words_are_drawn(
    kind: str, words: Path, tmp_path: Path
) -> None:
    run = train(small(kind, words), out=tmp_path / "run")
    dev = run.contexts().dev
    X, Y = dev[:]
    logprobs = run.model.logits(X).log_softmax(1)
    assert -logprobs[torch.arange(len(Y)), Y].mean().item() == pytest.approx(run.results["dev"], abs=1e-5)


@pytest.mark.seconds
@pytest.mark.parametrize("kind", TYPES)
def test_every_engine_trains_to_the_same_loss(kind: str, words: Path, tmp_path: Path) -> None:
    engines = ("chunked", "autograd", "fused")
    chunked, *others = (train(small(kind, words, engine=e), out=tmp_path / e).results for e in engines)
    for other in others:
        assert other["dev"] == pytest.approx(chunked["dev"], abs=1e-4)


@pytest.mark.seconds
def test_an_interrupted_run_goes_on_to_the_same_bits(words: Path, tmp_path: Path) -> None:
    whole = train(small("transformer", words), out=tmp_path / "whole")

    def interrupt(step: int, steps: int, loss: float) -> None:
        if step >= 5:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        train(small("transformer", words), out=tmp_path / "cut", watch=interrupt)
    resumed = train(TrainConfig(words=str(words)), out=tmp_path / "cut", resume=True)
    assert all(torch.equal(p, resumed.model.parameters[name]) for name, p in whole.model.parameters.items())


@pytest.mark.seconds
def test_an_interrupted_average_goes_on_to_the_same_bits_and_is_that_of_the_last_weights(
    words: Path, tmp_path: Path
) -> None:
    options = {"steps": 230, "average": 0.5, "keep": "last"}
    whole = train(small("rnn", words, **options), out=tmp_path / "whole")

    def interrupt(step: int, steps: int, loss: float) -> None:
        if step >= 190:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        train(small("rnn", words, **options), out=tmp_path / "cut", watch=interrupt)
    resumed = train(TrainConfig(words=str(words)), out=tmp_path / "cut", resume=True)
    weights = {}
    for steps in (130, 180, 230):  # the same training, stopped at the steps that are averaged
        config = small("rnn", words, **options | {"steps": 230, "average": 0.0})
        weights[steps] = after(config, steps, tmp_path / str(steps))
    for name, p in whole.model.parameters.items():
        assert torch.equal(p, resumed.model.parameters[name])
        assert not torch.equal(p, weights[230][name])
        mean = torch.stack([each[name] for each in weights.values()]).mean(0)
        assert (p - mean).abs().max() < 1e-6


def after(config: WordConfig, steps: int, out: Path) -> dict[str, torch.Tensor]:
    """The weights of a run after some of its steps."""

    def interrupt(step: int, total: int, loss: float) -> None:
        if step == steps < total:
            signal.raise_signal(signal.SIGINT)

    try:
        return train(
            dataclasses.replace(config, checkpoint_every=10), out=out, watch=interrupt
        ).model.parameters
    except TrainingInterrupted:
        run = Run.load(out)
        assert run.step == steps
        return run.latest.parameters


TINY = """
import torch

SHAPES = {"E": "V e", "W": "e V"}


def forward(Xb, Yb, E, W):
    emb = E[Xb]  # (n, T, e)
    logits = emb @ W  # (n, T, V)
    logprobs = logits.log_softmax(2)
    targets = Yb.clamp(min=0)[:, :, None]
    counted = (Yb >= 0)[:, :, None]
    loss = -(logprobs.gather(2, targets) * counted).sum() / counted.sum()
    return locals()


def backward(Xb, E, W, emb, logprobs, targets, counted):
    dlogits = (logprobs.exp() - torch.zeros_like(logprobs).scatter(2, targets, 1.0)) * counted / counted.sum()
    dW = emb.flatten(0, 1).T @ dlogits.flatten(0, 1)
    demb = dlogits @ W.T
    dE = torch.zeros_like(E).index_add(0, Xb.flatten(), demb.flatten(0, 1))
    return locals()
"""


@pytest.mark.seconds
def test_a_sixth_type_is_a_pass_and_a_line_in_the_table(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class TinyConfig(WordConfig):
        type: str = "tiny"

    module = ModuleType("backhand.passes.tiny_model")
    exec(TINY, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cast("dict[str, object]", CONFIGS), "tiny", TinyConfig)
    losses = []
    for engine in ("chunked", "autograd", "native"):  # without machine code, native is chunked
        train(small("tiny", words, engine=engine), out=tmp_path / engine)
        again = Run.load(tmp_path / engine)
        losses.append([score.loss for score in evaluate(again)])
        assert len(sample(again, n=3)) == 3
    assert losses[0] == losses[2] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0][0] < 2.45


def test_options_that_a_type_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="--average is 1"):
        CONFIGS["gru"](average=1)
    with pytest.raises(ConfigError, match="heads"):
        CONFIGS["transformer"](n_embd=10)
    with pytest.raises(ConfigError, match="type mlp"):
        TrainConfig(type="rnn")


def test_run_json_of_the_lectures_model_is_what_it_was() -> None:
    assert "type" not in TrainConfig().to_dict()
