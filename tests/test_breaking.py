"""Runs that nothing breaks: kills at any file operation, damaged folders, two processes at once."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import backhand
from backhand import Run, TrainConfig
from backhand.errors import BackhandError, RunError
from backhand.language.locking import LOCK, locked

KILLING = Path(__file__).with_name("killing.py")
SOMETHING = [None, True, -1, 10**30, 1e308, float("nan"), "", "\ud800", "a\0b", [], {}, [[]], "eight"]


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("scenario", "every"),
    [
        ("fresh", 31),
        *(pytest.param(s, 31, marks=pytest.mark.slow) for s in ("resume", "overwrite")),
        *(pytest.param(s, 1, marks=pytest.mark.slow) for s in ("fresh", "resume", "overwrite")),
    ],
)
def test_a_kill_at_any_file_operation_can_be_gone_on_from(tmp_path: Path, scenario: str, every: int) -> None:
    first = 1 if every == 1 else random.randint(1, every)
    kills = killing("operations", tmp_path, scenario, first, every)
    assert len(kills) * every > 70 - every
    assert [kill for kill in kills if kill["status"] not in (0, -9)] == []
    assert [kill for kill in kills if kill["again"] != 0 or not kill["same"]] == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace counts the system calls")
@pytest.mark.parametrize("scenario", ["fresh", "resume", "overwrite"])
def test_a_kill_at_any_system_call_can_be_gone_on_from(tmp_path: Path, scenario: str) -> None:
    kills = killing("calls", tmp_path, scenario, 1, 1)
    assert len(kills) > 30
    assert {kill["status"] for kill in kills[:-1]} == {-9}
    assert [kill for kill in kills if kill["again"] != 0 or not kill["same"]] == []


@pytest.mark.slow
def test_a_kill_at_any_moment_can_be_gone_on_from(tmp_path: Path) -> None:
    kills = killing("moments", tmp_path, 60, random.randrange(1 << 30))
    assert len(kills) == 60
    assert [kill for kill in kills if kill["status"] not in (0, -9)] == []
    assert [kill for kill in kills if kill["again"] != 0 or not kill["same"]] == []


@pytest.mark.slow
def test_of_processes_that_begin_at_once_in_a_folder_one_trains(tmp_path: Path) -> None:
    for race in killing("race", tmp_path, 10, 4):
        assert race["status"].count(0) >= 1  # one that comes when another has done may find nothing to do
        assert set(race["status"]) <= {0, 2}
        assert race["again"] in (0, 2)
        assert race["same"]


def killing(*arguments: Any) -> list[dict[str, Any]]:
    """What the program tells of each kill."""
    command = [sys.executable, str(KILLING), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that was stopped in the middle, and the same one when it is complete."""
    root = tmp_path_factory.mktemp("damaged")
    (root / "words.txt").write_text("\n".join(f"{a}{b}é" for a in "abcdefghij" for b in "klmno"))
    config = TrainConfig(words=str(root / "words.txt"), n_hidden=4, steps=60, checkpoint_every=20)

    def stop(step: int, steps: int, loss: float) -> None:
        if step > 40:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        backhand.train(config, out=root / "half", watch=stop)
    shutil.copytree(root / "half", root / "whole")
    backhand.train(TrainConfig(), out=root / "whole", resume=True)
    return root / "half", root / "whole"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def flip_a_bit(file: Path, draw: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def cut(file: Path, draw: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])


def add_bytes(file: Path, draw: random.Random) -> None:
    file.write_bytes(file.read_bytes() + draw.randbytes(draw.randint(1, 300)))


def replace_by_noise(file: Path, draw: random.Random) -> None:
    file.write_bytes(draw.randbytes(draw.randint(0, 3000)))


def replace_by_another_kind(file: Path, draw: random.Random) -> None:
    file.unlink()
    draw.choice([file.mkdir, lambda: os.mkfifo(file), lambda: file.symlink_to("/dev/zero"), lambda: None])()


def change_a_value(file: Path, draw: random.Random) -> None:
    """Change, remove or add a value of run.json, with a checksum that is right for it or without one."""
    path = file.with_name("run.json")
    about = json.loads(path.read_text())
    where = draw.choice([about, about["configuration"]])
    key = draw.choice([*where, "another"])
    if draw.random() < 0.3:
        where.pop(key, None)
    else:
        where[key] = draw.choice(SOMETHING)
    if draw.random() < 0.7:
        from backhand.language.about import digest

        about["sha256"] = digest({k: v for k, v in about.items() if k != "sha256"})
    path.write_text(json.dumps(about))


def change_a_tensor(file: Path, draw: random.Random) -> None:
    path = file.with_name("model.safetensors")
    tensors = load_file(path)
    name = draw.choice([*tensors])
    if draw.random() < 0.2:
        del tensors[name]
    else:
        tensors[name] = draw.choice(
            [
                tensors[name] * 0 + (float("nan") if name != "generator" else 7),
                tensors[name][..., :-1].contiguous(),
                tensors[name].double(),
                torch.zeros(0),
            ]
        )
    save_file(tensors, path, metadata=draw.choice([None, {"step": "40"}, {"step": "x"}, {"backhand": "[]"}]))


DAMAGES = (
    flip_a_bit,
    cut,
    add_bytes,
    replace_by_noise,
    replace_by_another_kind,
    change_a_value,
    change_a_tensor,
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("trials", [8, pytest.param(150, marks=pytest.mark.slow)])
def test_a_damaged_folder_is_told_in_one_line_or_makes_no_difference(
    halfway: tuple[Path, Path], tmp_path: Path, damage: Callable[..., None], trials: int
) -> None:
    half, whole = halfway
    expected, right = contents(whole), Run.load(half).model.parameters
    for seed in range(trials):
        draw = random.Random(seed)
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(half, folder)
        damage(folder / draw.choice(["run.json", "model.safetensors", "history.csv"]), draw)
        told = []
        try:
            loaded = Run.load(folder).model.parameters
            assert all(torch.equal(loaded[name], p) for name, p in right.items()), seed
        except BackhandError as error:
            told.append(str(error))
        try:
            backhand.train(TrainConfig(), out=folder, resume=True)
            assert contents(folder) == expected, seed
        except BackhandError as error:
            told.append(str(error))
        assert not any("\n" in message for message in told), (seed, told)


@pytest.mark.seconds
def test_a_second_process_is_told_who_trains(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "backhand",
        "train",
        "municipios",
        "--steps",
        "1000000",
        "--n-hidden",
        "8",
    ]
    first = subprocess.Popen([*command, "--out", str(folder)], stderr=subprocess.DEVNULL)
    try:
        while not (folder / "model.safetensors").exists():
            assert first.poll() is None
            time.sleep(0.05)
        options: list[dict[str, Any]] = [{}, {"resume": True}, {"overwrite": True}]
        for option in options:
            with pytest.raises(RunError, match=f"is being trained in by process {first.pid} on .* since 20"):
                backhand.train(TrainConfig(words="municipios"), out=folder, **option)
        backhand.sample(folder)  # the last checkpoint can be used meanwhile
    finally:
        first.kill()
        first.wait()
    assert (folder / LOCK).exists()
    about = json.loads((folder / "run.json").read_text())
    assert about["step"] < 1_000_000
    backhand.train(TrainConfig(words="municipios", steps=5, n_hidden=8), out=folder, overwrite=True)
    assert not (folder / LOCK).exists()


def test_the_lock_is_gone_when_training_raises(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def of_the_first_format(folder: Path, steps: int) -> Run:
    """Train, and leave the folder as the first version did, without checksums."""
    whole = backhand.train(TrainConfig(words="municipios", n_hidden=8, steps=steps), out=folder)
    about = json.loads((folder / "run.json").read_text())
    for key in ("format", "clusters", "sha256"):
        del about[key]
    del about["configuration"]["keep"]
    (folder / "run.json").write_text(json.dumps(about))
    model = folder / "model.safetensors"
    save_file(load_file(model), model, metadata={"step": str(steps)})
    rows = (folder / "history.csv").read_text().replace(",dev", "").splitlines()
    text = "\n".join(",".join(row.split(",")[:3]) for row in rows) + "\n"
    (folder / "history.csv").write_text(text)
    return whole


@pytest.mark.seconds
def test_a_run_of_the_first_format_is_read_and_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    whole = of_the_first_format(folder, 40)
    assert Run.load(folder).results == whole.results
    assert len(backhand.sample(folder)) == 20
    again = backhand.train(TrainConfig(), out=folder, resume=True)
    assert again.results == whole.results
    assert json.loads((folder / "run.json").read_text())["format"] == 2


def test_damage_that_no_checksum_tells_is_told_by_what_the_files_hold(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    of_the_first_format(folder, 20)
    history, model = folder / "history.csv", folder / "model.safetensors"
    rows = history.read_text()
    history.write_text(rows.replace("\n7,", "\n8,"))
    with pytest.raises(RunError, match=r"history\.csv is damaged: its rows are not those of 20 steps"):
        backhand.train(TrainConfig(), out=folder, resume=True)
    history.write_text(rows)
    tensors = load_file(model)
    tensors["b1"][3] = float("nan")
    save_file(tensors, model, metadata={"step": "20"})
    with pytest.raises(RunError, match="b1 is not finite"):
        Run.load(folder)
    tensors["b1"][3] = 0.0
    save_file(tensors, model, metadata={"step": "21"})
    with pytest.raises(RunError, match="it is at step 21 of 20"):
        Run.load(folder)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    whole = re.sub(r"\bbackhand\b", f"{sys.executable} -m backhand", command)
    return subprocess.run(["bash", "-c", whole], cwd=folder, capture_output=True, text=True)


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("backhand evaluate RUN > /dev/full", 1, "cannot write on standard output: No space left on device"),
        pytest.param("backhand sample RUN >&-", 2, "standard output is closed", marks=pytest.mark.slow),
        ("backhand train fifo", 2, "fifo is a pipe or a device, not a file"),
        pytest.param("backhand train <(echo ann)", 2, "is a pipe or a device", marks=pytest.mark.slow),
        pytest.param("backhand train /dev/zero", 2, "is a pipe or a device", marks=pytest.mark.slow),
        pytest.param(
            "backhand train names --n-hidden 1000000000 --out r",
            2,
            "GB of memory, and there are",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "backhand train names --batch-size 10000000000 --out r",
            2,
            "GB of memory, and there are",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "backhand sample RUN --out fifo", 2, "it is there and is no file", marks=pytest.mark.slow
        ),
    ],
)
def test_what_the_machine_cannot_do_is_one_line(
    small_run: Run, tmp_path: Path, command: str, status: int, told: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    done = run(command.replace("RUN", str(small_run.path)), tmp_path)
    assert done.returncode == status, done.stderr
    assert told in done.stderr
    assert done.stderr.startswith("backhand: ")
    assert done.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["fifo"]


@pytest.mark.slow
def test_a_terminal_of_ascii_shows_letters_as_python_writes_them(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("zoë\nnoël\nëva\n" * 8)
    done = run("LC_ALL=C PYTHONIOENCODING=ascii backhand train w.txt --steps 300 --n-hidden 4", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\\xeb" in done.stdout
    assert (done.stdout + done.stderr).isascii()


@pytest.mark.slow
def test_control_characters_never_reach_the_screen(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("a\x1b[31mb\x07\nb\u202ea\n" * 9)
    done = run("backhand train w.txt --steps 60 --n-hidden 4 && backhand sample runs/w", tmp_path)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\x07" not in done.stdout + done.stderr
    assert "\u202e" not in done.stdout + done.stderr
    assert "\x1b" not in (tmp_path / "runs/w/samples.txt").read_text()
