"""What is refused before anything is written: folders, options, lists that have changed."""

from pathlib import Path

import pytest

import backhand
from backhand import Run, TrainConfig
from backhand.errors import ConfigError, RunError, WordsError
from backhand.language import sizing
from run_folders import contents, history


@pytest.mark.seconds
def test_a_run_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    config = TrainConfig(n_hidden=8, steps=20)
    folder = tmp_path / "run"
    backhand.train(config, out=folder)
    before = contents(folder)
    with pytest.raises(
        RunError, match="holds a run already: --resume goes on with it, --overwrite replaces it"
    ):
        backhand.train(config, out=folder)
    assert contents(folder) == before
    (folder / "notes.md").write_text("mine")
    backhand.train(TrainConfig(n_hidden=8, steps=30), out=folder, overwrite=True)
    assert Run.load(folder).step == 30
    assert len(history(folder)) == 30
    assert (folder / "notes.md").read_text() == "mine"


def test_a_folder_with_other_things_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("somebody else's")
    for overwrite in (False, True):
        with pytest.raises(RunError, match="holds other things than a run"):
            backhand.train(TrainConfig(steps=5), out=tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == {"model.safetensors": b"somebody else's"}
    with pytest.raises(RunError, match="is a file"):
        backhand.train(TrainConfig(steps=5), out=tmp_path / "model.safetensors")


def test_bad_words_leave_an_old_run_alone_even_with_overwrite(tmp_path: Path) -> None:
    backhand.train(TrainConfig(n_hidden=8, steps=20), out=tmp_path / "run")
    before = contents(tmp_path / "run")
    (tmp_path / "bad.txt").write_bytes(b"ann\n\xff\n")
    (tmp_path / "few.txt").write_text("ann\nbob\n")
    (tmp_path / "one.txt").write_text("aaa\naa\na\n" * 5)
    for name, message in {"bad": "not UTF-8", "few": "too few", "one": "made of one letter, 'a'"}.items():
        with pytest.raises(WordsError, match=message):
            backhand.train(
                TrainConfig(words=str(tmp_path / f"{name}.txt")), out=tmp_path / "run", overwrite=True
            )
        with pytest.raises(WordsError, match=message):
            backhand.train(TrainConfig(words=str(tmp_path / f"{name}.txt")), out=tmp_path / "fresh")
    with pytest.raises(ConfigError, match="--device 'toaster' cannot be used here"):
        backhand.train(TrainConfig(device="toaster"), out=tmp_path / "run", overwrite=True)
    assert contents(tmp_path / "run") == before
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 0}, "--block-size is 0; it must be a whole number from 1 up"),
        ({"n_embd": 0}, "--n-embd"),
        ({"n_hidden": -1}, "--n-hidden"),
        ({"steps": 0}, "--steps"),
        ({"steps": 2.5}, "--steps is 2.5"),
        ({"checkpoint_every": 0}, "--checkpoint-every"),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"batch_size": 1}, "--batch-size is 1; batch norm needs at least 2"),
        ({"rate": -0.1}, "--rate is -0.1"),
        ({"final_rate": float("inf")}, "--final-rate is inf"),
        ({"drop_at": 1.5}, "--drop-at is 1.5"),
        ({"seed": -1}, "--seed is -1"),
        ({"split_seed": 2**64}, "--split-seed"),
        ({"engine": "steam"}, "--engine is 'steam'; choose from"),
        ({"batch_norm": "none"}, "--batch-norm is 'none'; choose from calibrate, running"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig(**options)
    assert str(error.value).startswith(message)


@pytest.mark.seconds
def test_resuming_refuses_what_contradicts_the_run(tmp_path: Path) -> None:
    backhand.train(TrainConfig(n_hidden=8, steps=20), out=tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"--steps is 40, but the run in .* has 20"):
        backhand.train(TrainConfig(steps=40), out=tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="--words is 'municipios'"):
        backhand.train(TrainConfig(words="municipios"), out=tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="exclude each other"):
        backhand.train(TrainConfig(), out=tmp_path / "run", resume=True, overwrite=True)
    with pytest.raises(RunError, match="is not a run folder"):
        backhand.train(TrainConfig(), out=tmp_path / "nothing", resume=True)
    assert contents(tmp_path / "run") == before


def test_a_list_that_has_changed_is_noticed(tmp_path: Path) -> None:
    words = backhand.load_words("names")[:200]
    (tmp_path / "list.txt").write_text("\n".join(words))
    run = backhand.train(
        TrainConfig(words=str(tmp_path / "list.txt"), n_hidden=8, steps=20), out=tmp_path / "run"
    )
    assert run.words() == words
    (tmp_path / "list.txt").write_text("\n".join(words[:-1]))
    for verb in (backhand.evaluate, backhand.sample, backhand.inspect):
        with pytest.raises(WordsError, match=r"list\.txt has changed since .*run was trained on it"):
            verb(tmp_path / "run")
    with pytest.raises(WordsError, match="has changed"):
        backhand.train(TrainConfig(), out=tmp_path / "run", resume=True)
    (tmp_path / "list.txt").unlink()
    with pytest.raises(WordsError, match="there is no file"):
        backhand.sample(tmp_path / "run")


def test_a_model_is_refused_that_needs_four_copies_of_four_bytes_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = TrainConfig(n_hidden=1000, batch_size=2)
    numbers = 27 * 10 + 30 * 1000 + 1000 + 1000 * 27 + 27 + 2 * 1000
    monkeypatch.setattr(sizing, "memory", lambda: 4 * 4 * numbers)
    with pytest.raises(ConfigError, match=f"a model of {numbers:,} parameters"):
        sizing.refuse_size(config, 27)
    monkeypatch.setattr(sizing, "memory", lambda: 4 * 4 * numbers + 4 * 2 * 10_000)
    sizing.refuse_size(config, 27)
