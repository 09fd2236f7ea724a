"""Lists of any size: steps that fit, the best model kept, counting beside it; a run from Python."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import backhand
from backhand import Run, TrainConfig
from backhand.errors import WordsError
from backhand.language.evaluating import worse_than_counting
from backhand.language.starting import new_run


def write(path: Path, words: list[str]) -> str:
    path.write_text("\n".join(words), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """500 names, and nothing chosen."""
    folder = tmp_path_factory.mktemp("own")
    words = random.Random(2).sample(backhand.load_words("names"), 500)
    return backhand.train(TrainConfig(words=write(folder / "words.txt", words)), out=folder / "run")


@pytest.mark.seconds
def test_500_words_end_better_than_counting(own: Run) -> None:
    assert (own.config.steps, own.config.keep) == (3200, "best")
    dev = backhand.evaluate(own, split="dev")[0]
    assert dev.loss < dev.bigram < dev.uniform
    assert worse_than_counting([dev], own.config) is None


def test_the_best_model_is_kept_and_used(own: Run) -> None:
    table = np.genfromtxt(own.path / "history.csv", delimiter=",", skip_header=1)
    measured = np.flatnonzero(~np.isnan(table[:, 3]))
    assert len(measured) > 20
    assert own.kept == measured[table[measured, 3].argmin()] + 1
    assert own.dev == pytest.approx(table[measured, 3].min(), abs=1e-6)
    assert own.dev == pytest.approx(own.results["dev"], abs=1e-4)  # so short a list is measured whole
    assert own.kept < own.step
    assert Run.load(own.path).kept == own.kept


def test_keeping_the_last_is_another_model_after_the_same_steps(own: Run, tmp_path: Path) -> None:
    last = backhand.train(TrainConfig(words=own.config.words, keep="last"), out=tmp_path / "last")
    assert last.kept == last.step == own.step
    assert last.results["dev"] > own.results["dev"]
    rows = (own.path / "history.csv").read_bytes()
    assert (tmp_path / "last" / "history.csv").read_bytes() == rows


def test_the_lectures_lists_keep_their_steps_and_the_last_model(lecture_list: Path, tmp_path: Path) -> None:
    for words in ("names", str(lecture_list)):
        run, _ = new_run(TrainConfig(words=words), tmp_path, backhand.load_words(words))
        assert (run.config.steps, run.config.keep, run.config.n_hidden) == (200_000, "last", 200)


def test_worse_than_counting_is_said_with_what_to_try() -> None:
    score = backhand.Score("dev", 300, loss=3.4, bigram=2.5, uniform=3.3)
    told = worse_than_counting([score], TrainConfig(steps=200_000, keep="last"))
    assert told is not None
    assert told.startswith(
        "worse than guessing blindly: dev loss 3.400, not 3.300. Try more words, --keep best"
    )
    assert "fewer --steps" in told
    told = worse_than_counting([score], TrainConfig(steps=200_000, keep="best"))
    assert "fewer --steps" not in str(told)  # the steps after the best ones did no harm
    by_heart, behind = (backhand.Score("train", 2400, loss, bigram=2.4, uniform=3.3) for loss in (1.0, 2.5))
    assert worse_than_counting([by_heart, score], TrainConfig(steps=200_000, keep="best")) == told
    told = worse_than_counting([behind, score], TrainConfig(steps=20, n_hidden=12, keep="best"))
    assert str(told).endswith("Try more --steps, a larger model (--n-hidden 120)")
    told = worse_than_counting([behind, score], TrainConfig(steps=20_000, n_hidden=200, keep="best"))
    assert str(told).endswith("Try another --rate")


@pytest.mark.seconds
def test_a_list_of_combined_letters_is_trained_and_sampled(tmp_path: Path) -> None:
    words = [f"{a}e\u0301{b}\U0001f468\u200d\U0001f469" for a in "abcd" for b in "efgh"]
    config = TrainConfig(words=write(tmp_path / "w.txt", words), n_hidden=8, steps=600)
    run = backhand.train(config, out=tmp_path / "run")
    assert len(run.vocabulary) == 1 + 8 + 2
    assert json.loads((run.path / "run.json").read_text())["clusters"] == list(run.vocabulary.clusters)
    drawn = Run.load(run.path).sample(n=150)  # one by one, and in blocks
    assert any(sample.word in words for sample in drawn[100:])
    assert run.sample(n=2, prefix="ae\u0301")[0].word.startswith("ae\u0301")


def test_a_short_list_gets_a_hidden_layer_that_it_can_fill(tmp_path: Path) -> None:
    names = random.Random(2).sample(backhand.load_words("names"), 3000)
    chosen = {}
    for name, words in (("short", names[:60]), ("long", names)):
        config = TrainConfig(words=write(tmp_path / name, words))
        run, splits = new_run(config, tmp_path, backhand.load_words(config.words))
        chosen[name] = run.config.n_hidden, run.model.parameters["b1"].numel(), len(splits.train)
        explicit = new_run(dataclasses.replace(config, n_hidden=200), tmp_path, words)[0]
        assert explicit.config.n_hidden == 200
    assert chosen["short"][0] == chosen["short"][1] == chosen["short"][2] // 20 < 30
    assert chosen["long"][:2] == (200, 200)


@pytest.mark.slow
def test_many_different_letters_take_little_memory(tmp_path: Path) -> None:
    letters = [chr(0x4E00 + i) for i in range(20_000)]
    vocabulary = backhand.Vocabulary("".join(letters))
    from backhand.language.drawing import draw_block, tabulate
    from backhand.language.model import Model, draw_parameters, rows_at_once

    config = TrainConfig(n_hidden=4, n_embd=2)
    parameters = draw_parameters(config, len(vocabulary), torch.Generator().manual_seed(1))
    model = Model(vocabulary, parameters, torch.zeros(1, 4), torch.ones(1, 4))
    seen: list[int] = []

    def distributions(X: torch.Tensor) -> torch.Tensor:
        seen.append(len(X))
        probs = torch.zeros(len(X), len(vocabulary))
        probs[:, 0] = 1
        return probs

    assert tabulate(model, distributions) is distributions
    assert draw_block(model, distributions, [], torch.Generator(), 1000)[0] == ""
    assert max(seen) <= rows_at_once(len(vocabulary)) < 1000


def test_the_loss_of_words_is_that_of_evaluate(small_run: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "w.txt", ["anna", "bob"])
    assert small_run.loss(["anna", "bob"]) == backhand.evaluate(small_run, words=file)[0].loss
    with pytest.raises(WordsError, match="there are no words"):
        small_run.loss([])
    with pytest.raises(backhand.BackhandError, match=r"takes a list of words, not a text; .* \['anna'\]"):
        small_run.loss("anna")
    with pytest.raises(WordsError, match="takes a list of words; 3 is none"):
        small_run.loss(["anna", 3])  # type: ignore[list-item]
    assert small_run.sample(n=3) == backhand.sample(small_run.path, n=3)
