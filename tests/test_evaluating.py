import math
from pathlib import Path

import pytest
import torch

import backhand
from backhand import Run
from backhand.errors import ConfigError, WordsError


def test_every_split_has_its_loss_and_the_figures_made_of_it(small_run: Run) -> None:
    scores = backhand.evaluate(small_run)
    assert [s.words for s in scores] == ["train", "dev", "test"]
    assert [s.loss for s in scores] == list(small_run.results.values())
    for s in scores:
        assert s.uniform == pytest.approx(math.log(27))
        assert s.perplexity == pytest.approx(math.exp(s.loss))
        assert s.bits_per_character == pytest.approx(s.loss / math.log(2))
        assert s.bigram < s.uniform
        assert s.loss < s.uniform
    assert sum(s.contexts for s in scores) == sum(len(word) + 1 for word in backhand.load_words("names"))


@pytest.mark.seconds
def test_the_bigram_model_counts_pairs_of_the_training_split_plus_one(small_run: Run) -> None:
    train, dev, _ = backhand.split_words(backhand.load_words("names"))
    N = torch.ones(27, 27, dtype=torch.float64)
    stoi = small_run.vocabulary.stoi
    for word in train:
        for a, b in zip("." + word, word + ".", strict=True):
            N[stoi[a], stoi[b]] += 1
    P = N / N.sum(1, keepdim=True)
    pairs = [P[stoi[a], stoi[b]] for word in dev for a, b in zip("." + word, word + ".", strict=True)]
    expected = -torch.stack(pairs).log().mean().item()
    assert backhand.evaluate(small_run, split="dev")[0].bigram == pytest.approx(expected, abs=1e-9)


def test_one_split_alone_is_measured_as_among_all(small_run: Run) -> None:
    assert backhand.evaluate(small_run, split="test") == backhand.evaluate(small_run)[2:]


def test_other_words_can_be_measured(small_run: Run, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("anna\nbob\n")
    (tmp_path / "own.csv").write_text("n,w\n1,anna\n2,bob\n")
    text = backhand.evaluate(small_run, words=tmp_path / "own.txt")
    table = backhand.evaluate(small_run, words=tmp_path / "own.csv", column="w")
    assert [s.contexts for s in text] == [9]
    assert text[0].loss == table[0].loss
    logits = small_run.model.logits(backhand.Contexts(["anna", "bob"], small_run.vocabulary, 3)[:][0])
    Y = torch.tensor([*small_run.vocabulary.encode("anna"), 0, *small_run.vocabulary.encode("bob"), 0])
    assert text[0].loss == pytest.approx(torch.nn.functional.cross_entropy(logits, Y).item(), abs=1e-6)


def test_words_that_the_model_cannot_spell_are_refused(small_run: Run, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("anna\nBob\n")
    with pytest.raises(WordsError, match="'Bob' holds 'B', which the model has never seen"):
        backhand.evaluate(small_run, words=tmp_path / "own.txt")
    with pytest.raises(ConfigError, match="leave it out with --words"):
        backhand.evaluate(small_run, words=tmp_path / "own.txt", split="dev")
