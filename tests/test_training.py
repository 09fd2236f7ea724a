"""Training: its numbers, its run folder, and what interrupts it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import backhand
from backhand import Run, TrainConfig
from backhand.errors import ConfigError, NonFiniteError, RunError
from backhand.learning.blanking import solved
from backhand.learning.course import find
from run_folders import FILES, contents, history


def test_the_history_has_a_row_a_step_with_loss_and_rate(small_run: Run) -> None:
    assert (small_run.path / "history.csv").read_text().startswith("step,loss,rate,dev\n0,")
    steps, losses, rates = history(small_run.path).T
    assert steps.tolist() == list(range(400))
    assert rates.tolist() == [0.1] * 200 + [0.01] * 200
    assert losses[:50].mean() - losses[-50:].mean() > 0.4


def test_training_is_the_lectures_loop(tmp_path: Path) -> None:
    from backhand.passes import mlp_fused

    config = TrainConfig(n_hidden=20, steps=30)
    run = backhand.train(config, out=tmp_path / "run")
    words = backhand.load_words("names")
    X, Y = backhand.Contexts(backhand.split_words(words, 42).train, backhand.Vocabulary.of(words), 3)[:]
    g = torch.Generator().manual_seed(2147483647)
    p = backhand.language.model.draw_parameters(config, 27, g)
    losses = []
    for i in range(30):
        ix = torch.randint(0, X.shape[0], (32,), generator=g)
        leaves = {name: t.clone().requires_grad_() for name, t in p.items()}
        loss = mlp_fused.forward(X[ix], Y[ix], **leaves)["loss"]
        loss.backward()
        p = {name: t.detach() - (0.1 if i < 15 else 0.01) * t.grad for name, t in leaves.items()}
        losses.append(loss.item())
    np.testing.assert_allclose(history(tmp_path / "run")[:, 1], losses, atol=1e-6)
    for name, t in p.items():
        torch.testing.assert_close(run.model.parameters[name], t, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("engine", "threads"), [("native", 1), ("fused", 2)])
def test_beside_machine_code_pytorch_uses_one_core_and_all_of_them_afterwards(
    tmp_path: Path, engine: str, threads: int
) -> None:
    seen: set[int] = set()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        backhand.train(
            TrainConfig(n_hidden=8, steps=3, engine=engine),
            out=tmp_path / "run",
            watch=lambda step, steps, loss: seen.add(torch.get_num_threads()),
        )
        assert (seen, torch.get_num_threads()) == ({threads}, 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.seconds
def test_running_statistics_are_kept_during_training(tmp_path: Path) -> None:
    config = TrainConfig(n_hidden=12, steps=6000, rate=0.0, final_rate=0.0, batch_norm="running")
    run = backhand.train(config, out=tmp_path / "run")
    bnmean, bnstd = backhand.language.model.calibrate(run.model.parameters, run.contexts().train)
    torch.testing.assert_close(
        run.model.bnmean, bnmean, atol=0.06, rtol=0
    )  # a mean of about 1000 minibatches
    torch.testing.assert_close(run.model.bnstd, bnstd, atol=0, rtol=0.05)
    short = backhand.train(TrainConfig(n_hidden=12, steps=10, batch_norm="running"), out=tmp_path / "short")
    assert short.model.bnmean.abs().max() < 0.05  # ten thousandths of the way from zero


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "backhand",
        "train",
        "municipios",
        "--n-hidden",
        "24",
        "--out",
        str(folder),
    ]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until a checkpoint of that step or a later one is there."""
    for _ in range(3000):
        try:
            if json.loads((folder / "run.json").read_text())["step"] >= step:
                return
        except FileNotFoundError:
            pass
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    pytest.fail("no checkpoint after a minute")


@pytest.mark.slow  # test_breaking kills at any file operation; this is the whole way, in processes
@pytest.mark.parametrize("batch_norm", ["calibrate", "running"])
def test_a_killed_run_is_resumed_to_the_very_same_folder(tmp_path: Path, batch_norm: str) -> None:
    options = ("--steps", "2500", "--checkpoint-every", "300", "--batch-norm", batch_norm)
    finish(start(tmp_path / "whole", *options))
    killed = start(tmp_path / "killed", *options)
    wait_for_step(tmp_path / "killed", 600, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    step = Run.load(tmp_path / "killed").step
    assert 600 <= step < 2500
    backhand.evaluate(tmp_path / "killed")  # a checkpoint is a usable model
    finish(start(tmp_path / "killed", "--resume"))
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.seconds
def test_ctrl_c_finishes_the_step_saves_and_exits_with_130(tmp_path: Path) -> None:
    process = start(tmp_path / "run", "--steps", "1000000", "--checkpoint-every", "1000000")
    wait_for_step(tmp_path / "run", 0, process)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"go on with: backhand train --out {tmp_path / 'run'} --resume" in errors.splitlines()[-1]
    step = Run.load(tmp_path / "run").step
    assert 0 < step < 1_000_000
    assert f"stopped after {step:,} steps" in errors
    assert len(history(tmp_path / "run")) == step


@pytest.mark.seconds
def test_the_command_that_goes_on_after_ctrl_c_has_ones_own_backward_in_it(tmp_path: Path) -> None:
    exercise = find("mlp_fused")
    own = tmp_path / exercise.file_name
    own.write_text(solved(exercise))
    options = ("--backward", str(own), "--steps", "1000000", "--checkpoint-every", "50")
    process = start(tmp_path / "run", *options)
    wait_for_step(tmp_path / "run", 50, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1].endswith(f"{tmp_path / 'run'} --resume --backward {own}")


@pytest.mark.seconds
@pytest.mark.parametrize("cut", [700, 701])
def test_a_history_that_is_ahead_of_the_checkpoint_is_cut_back(tmp_path: Path, cut: int) -> None:
    config = TrainConfig(n_hidden=8, steps=900, checkpoint_every=300)
    backhand.train(config, out=tmp_path / "whole")
    halfway = tmp_path / "half"

    def stop_at_600(step: int, steps: int, loss: float) -> None:
        if step >= 600:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        backhand.train(config, out=halfway, watch=stop_at_600)
    with (halfway / "history.csv").open("a") as file:
        file.writelines(f"{step},9.9,0.1,\n" for step in range(600, cut))
        file.write("701,2.")  # a row that was being written
    backhand.train(config, out=halfway, resume=True)
    assert contents(halfway) == contents(tmp_path / "whole")


@pytest.mark.seconds
def test_a_history_that_is_one_row_short_is_refused(tmp_path: Path) -> None:
    run = backhand.train(TrainConfig(n_hidden=8, steps=40, checkpoint_every=20), out=tmp_path / "run")
    whole = (run.path / "history.csv").read_text()
    (run.path / "history.csv").write_text("".join(whole.splitlines(keepends=True)[:-1]))
    before = contents(run.path)
    with pytest.raises(backhand.errors.RunError, match=r"history\.csv ends before step 40"):
        backhand.train(TrainConfig(), out=run.path, resume=True)
    assert contents(run.path) == before
    (run.path / "history.csv").write_text(whole)
    assert backhand.train(TrainConfig(), out=run.path, resume=True).step == 40


@pytest.mark.seconds
def test_how_often_checkpoints_are_written_does_not_change_the_model(tmp_path: Path) -> None:
    often = backhand.train(TrainConfig(n_hidden=8, steps=100, checkpoint_every=7), out=tmp_path / "often")
    once = backhand.train(TrainConfig(n_hidden=8, steps=100), out=tmp_path / "once")
    assert all(torch.equal(often.model.parameters[name], p) for name, p in once.model.parameters.items())
    assert (tmp_path / "often/history.csv").read_bytes() == (tmp_path / "once/history.csv").read_bytes()


def test_a_finished_run_can_be_resumed_and_stays_the_same(tmp_path: Path) -> None:
    backhand.train(TrainConfig(n_hidden=8, steps=50), out=tmp_path / "run")
    before = contents(tmp_path / "run")
    assert backhand.train(TrainConfig(), out=tmp_path / "run", resume=True).step == 50
    assert contents(tmp_path / "run") == before


def test_a_non_finite_tensor_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    config = TrainConfig(n_hidden=8, steps=400, checkpoint_every=100, drop_at=0.6, final_rate=1e39)
    with pytest.raises(NonFiniteError) as error:
        backhand.train(config, out=tmp_path / "run")
    assert str(error.value).startswith("step 240: C is the first tensor that is not finite")
    assert f"the last checkpoint in {tmp_path / 'run'} is kept" in str(error.value)
    assert "--rate" in str(error.value)
    kept = Run.load(tmp_path / "run")
    assert kept.step == 200
    assert all(p.isfinite().all() for p in kept.model.parameters.values())


@pytest.mark.seconds
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("a small disk cannot be mounted without being root")
    try:
        config = TrainConfig(n_hidden=24, steps=2000, checkpoint_every=100)
        filled = []

        def fill_at_350(step: int, steps: int, loss: float) -> None:
            if step >= 350 and not filled:
                filled.append((disk / "other").write_bytes(b"x" * shutil.disk_usage(disk).free))

        with pytest.raises(RunError, match=r"cannot write .*: No space left on device; .* still there"):
            backhand.train(config, out=disk / "run", watch=fill_at_350)
        step = Run.load(disk / "run").step
        assert 200 <= step < 2000
        (disk / "other").unlink()
        shutil.copytree(disk / "run", tmp_path / "moved")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    resumed = backhand.train(TrainConfig(), out=tmp_path / "moved", resume=True)
    assert resumed.step == 2000
    whole = backhand.train(config, out=tmp_path / "whole")
    assert all(torch.equal(resumed.model.parameters[k], p) for k, p in whole.model.parameters.items())
    assert sorted(contents(tmp_path / "moved")) == FILES


def test_tensorboard_logs_are_written_when_asked_for(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backhand.train(TrainConfig(n_hidden=8, steps=250, tensorboard=True), out=tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    losses = history(tmp_path / "run")[:, 1]
    assert [e.step for e in events.Scalars("loss")] == [0, 100, 200]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(
        [losses[:100].mean(), losses[100:200].mean(), losses[200:].mean()], rel=1e-5
    )
    assert [e.value for e in events.Scalars("rate")] == pytest.approx([0.1, 0.1, 0.01])


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(ConfigError, match=r"pip install 'backhand\[tensorboard\]'"):
        backhand.train(TrainConfig(n_hidden=8, steps=5, tensorboard=True), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
