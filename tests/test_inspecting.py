import signal
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

import backhand
from backhand import Run, TrainConfig
from backhand.errors import ConfigError, WordsError
from backhand.language.history import History
from backhand.language.inspecting import Summary
from backhand.language.recipes import CONFIGS
from backhand.language.training import TrainingInterrupted


def test_the_lectures_list_gives_the_values_that_the_notebooks_print(lecture_list: Path) -> None:
    tensors = backhand.inspect(TrainConfig(words=str(lecture_list), n_hidden=64)).tensors
    assert tensors["Yb"][:8].tolist() == [8, 14, 15, 22, 0, 19, 9, 14]
    printed = {"atol": 5e-5, "rtol": 0}
    torch.testing.assert_close(
        tensors["emb"][0, 0, :4], torch.tensor([-0.4713, 0.7868, -0.3284, -0.4330]), **printed
    )
    torch.testing.assert_close(tensors["hprebn"][0, :3], torch.tensor([-1.2944, -1.6063, 0.5824]), **printed)
    torch.testing.assert_close(
        tensors["bnmeani"][0, :4], torch.tensor([-0.2923, -0.0526, -0.6841, 0.7001]), **printed
    )


def test_every_intermediate_and_every_gradient_is_summarised(small_run: Run) -> None:
    inspection = backhand.inspect(small_run)
    assert inspection.step == 400
    assert len(inspection.backward) == 26
    assert {"emb", "hprebn", "bnmeani", "h", "logits", "probs", "loss"} <= {
        s.name for s in inspection.forward
    }
    for summary in inspection.forward + inspection.backward:
        tensor = inspection.tensors[summary.name].double()
        assert summary.shape == tuple(tensor.shape)
        assert summary.mean == pytest.approx(tensor.mean().item(), abs=1e-12)
        assert (summary.min, summary.max) == (tensor.min().item(), tensor.max().item())
        assert summary.std == (pytest.approx(tensor.std().item()) if tensor.numel() > 1 else 0.0)


def test_saturated_and_dead_units_are_counted() -> None:
    fresh = backhand.inspect(TrainConfig(n_hidden=16))
    h = fresh.tensors["h"]
    assert fresh.saturated == pytest.approx((h.abs() > 0.99).double().mean().item())
    run = backhand.language.inspecting.find_run(TrainConfig(n_hidden=16))
    run.model.parameters["bnbias"][0, 3:5] = 50.0
    broken = backhand.inspect(run)
    assert broken.dead == fresh.dead + 2
    assert broken.saturated > 2 / 16


def test_updates_are_relative_to_the_weights(small_run: Run) -> None:
    inspection = backhand.inspect(small_run)
    assert [u.name for u in inspection.updates] == list(small_run.model.parameters)
    for update in inspection.updates:
        gradient = inspection.tensors[f"d{update.name}"].double()
        weights = small_run.model.parameters[update.name].double()
        assert update.gradient == pytest.approx((gradient.std() / weights.std()).item())
        assert update.update == pytest.approx(0.01 * update.gradient)  # the rate after half the steps


@pytest.mark.seconds
@pytest.mark.parametrize("kind", ["bigram", "rnn", "gru", "transformer"])
def test_a_run_of_whole_words_shows_its_next_step(kind: str, tmp_path: Path) -> None:
    more = {"words": "municipios", "engine": "chunked", "n_embd": 8, "n_hidden": 6, "batch_size": 9}
    config = CONFIGS[kind](**more, steps=2, checkpoint_every=1)
    with pytest.raises(TrainingInterrupted):
        backhand.train(config, out=tmp_path, watch=lambda *_: signal.raise_signal(signal.SIGINT))
    run = Run.load(tmp_path)
    inspection = backhand.inspect(tmp_path, png=tmp_path / "maps.png")
    assert inspection.step == run.step == 1
    assert {"logits", "loss"} <= {summary.name for summary in inspection.forward}
    assert {"dlogits", *(f"d{name}" for name in run.latest.parameters)} <= set(inspection.tensors)
    done = backhand.train(TrainConfig(words="municipios"), out=tmp_path, resume=True)
    assert History(tmp_path / "history.csv").read().losses[1] == pytest.approx(
        inspection.tensors["loss"].item(), abs=1e-6
    )
    for update in inspection.updates:
        before, after = run.latest.parameters[update.name], done.latest.parameters[update.name]
        if not done.config.average:
            moved = (after.double() - before.double()).std() / before.double().std()
            assert update.update == pytest.approx(moved.item(), rel=1e-3)
    if kind == "rnn":
        states = inspection.tensors["h"][inspection.tensors["counted"][:, :, 0]]
        assert inspection.saturated == pytest.approx((states.abs() > 0.99).double().mean().item())


def test_inspecting_leaves_the_run_as_it_is_and_shows_its_next_minibatch(small_run: Run) -> None:
    before = small_run.generator.get_state()
    first, again = backhand.inspect(small_run), backhand.inspect(small_run.path)
    assert torch.equal(small_run.generator.get_state(), before)
    assert torch.equal(first.tensors["Xb"], again.tensors["Xb"])
    fresh = backhand.inspect(TrainConfig(n_hidden=24))
    assert not torch.equal(first.tensors["Xb"], fresh.tensors["Xb"])


def test_heat_maps_are_drawn_into_a_file(small_run: Run, tmp_path: Path) -> None:
    backhand.inspect(small_run, png=tmp_path / "maps.png")
    assert imread(tmp_path / "maps.png").std() > 0.05


def test_what_is_neither_run_nor_list_and_contradicting_options_are_refused(
    small_run: Run, tmp_path: Path
) -> None:
    with pytest.raises(WordsError, match="there is no file"):
        backhand.inspect(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"--n-hidden is 32, but the run in .* has 24"):
        backhand.inspect(TrainConfig(words=str(small_run.path), n_hidden=32))


def test_two_numbers_have_a_deviation_and_one_has_none() -> None:
    two = Summary.of("two", torch.tensor([1.0, 4.0]))
    assert (two.mean, two.std, two.min, two.max) == (2.5, pytest.approx(4.5**0.5), 1.0, 4.0)
    assert Summary.of("one", torch.tensor(3.0)).std == 0.0
