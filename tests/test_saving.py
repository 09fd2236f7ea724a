"""A run folder is read as it was written, or refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import backhand
from backhand import Run, TrainConfig
from backhand.errors import BackhandError, RunError
from backhand.language.files import write_atomically
from backhand.language.words import hash_words
from run_folders import FILES, contents


def test_the_run_folder_holds_what_it_should(small_run: Run) -> None:
    assert sorted(contents(small_run.path)) == FILES
    about = json.loads((small_run.path / "run.json").read_text())
    assert about["configuration"]["n_hidden"] == 24
    assert about["vocabulary"] == "abcdefghijklmnopqrstuvwxyz"
    assert about["step"] == 400
    assert about["words_sha256"] == hash_words(backhand.load_words("names"))
    assert about["results"] == small_run.results
    assert about["versions"]["torch"] == torch.__version__
    assert 2147483647 in about["seeds"].values()
    with safe_open(small_run.path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == {*small_run.model.parameters, "bnmean", "bnstd", "generator"}
    assert (small_run.path / "samples.txt").read_text().split() == [
        s.word for s in backhand.sample(small_run)
    ]
    assert imread(small_run.path / "loss.png").std() > 0.05


def test_a_run_that_is_loaded_is_the_run_that_was_trained(small_run: Run) -> None:
    loaded = Run.load(small_run.path)
    assert loaded.config == small_run.config
    assert (loaded.step, loaded.results, loaded.vocabulary) == (400, small_run.results, small_run.vocabulary)
    for name, p in small_run.model.parameters.items():
        assert torch.equal(loaded.model.parameters[name], p)
    assert torch.equal(loaded.generator.get_state(), small_run.generator.get_state())


def damage(folder: Path, kind: str) -> None:
    """Spoil a run folder in one of the ways that happen."""
    model, about = folder / "model.safetensors", folder / "run.json"
    tensors = load_file(model)
    if kind == "cut model":
        model.write_bytes(model.read_bytes()[:-100])
    elif kind == "no model":
        model.unlink()
    elif kind == "foreign model":
        save_file({"weight": torch.zeros(3)}, model)
    elif kind == "missing tensor":
        del tensors["W1"]
        save_file(tensors, model, metadata={"step": "20"})
    elif kind == "other shape":
        tensors["W1"] = tensors["W1"].T.contiguous()
        save_file(tensors, model, metadata={"step": "20"})
    elif kind == "cut run.json":
        about.write_text(about.read_text()[:50])
    elif kind == "foreign run.json":
        about.write_text('{"name": "something else"}')
    elif kind == "a list":
        about.write_text("[1, 2]")
    elif kind == "odd values":
        about.write_text(about.read_text().replace('"n_hidden": 8', '"n_hidden": "eight"'))
    elif kind == "odd vocabulary":
        about.write_text(about.read_text().replace('"abcdefghijklmnopqrstuvwxyz"', "26"))
    elif kind == "binary run.json":
        about.write_bytes(b"\xff\xfe\x00")


@pytest.mark.seconds
@pytest.mark.parametrize(
    "kind",
    [
        "cut model",
        "no model",
        "foreign model",
        "missing tensor",
        "other shape",
        "cut run.json",
        "foreign run.json",
        "a list",
        "odd values",
        "odd vocabulary",
        "binary run.json",
    ],
)
def test_a_damaged_or_foreign_run_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    backhand.train(TrainConfig(n_hidden=8, steps=20), out=tmp_path / "run")
    damage(tmp_path / "run", kind)
    spoilt = (
        "model.safetensors" if "model" in kind or kind in ("missing tensor", "other shape") else "run.json"
    )
    for use in (
        lambda: backhand.sample(tmp_path / "run"),
        lambda: backhand.train(TrainConfig(), out=tmp_path / "run", resume=True),
    ):
        with pytest.raises(BackhandError) as error:
            use()
        assert spoilt in str(error.value)
        assert "\n" not in str(error.value)


def test_a_first_file_that_cannot_be_written_is_not_said_to_be_there(tmp_path: Path) -> None:
    file = tmp_path / ("m" * 253)  # what it is called while it is being written is too long
    with pytest.raises(RunError, match=r"cannot write .*: File name too long; nothing was written"):
        write_atomically(file, b"all of it")
    file.write_bytes(b"before")
    with pytest.raises(RunError, match=r"cannot write .*: File name too long; .* is still there"):
        write_atomically(file, b"all of it")
    assert file.read_bytes() == b"before"
