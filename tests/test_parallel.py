"""Several processes that train one model, started by torchrun as a user starts them, on loopback."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import backhand

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="loopback has another name there")


def torchrun(*arguments: str, processes: int = 2) -> subprocess.Popen[str]:
    """Start `backhand train` in several processes that talk over loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    launcher += ["--master-addr", "127.0.0.1", "--master-port", str(port), "--monitor-interval", "0.1"]
    command = [sys.executable, *launcher, "-m", "backhand", "train", *arguments]
    return subprocess.Popen(
        command,
        env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def losses(run: Path) -> list[float]:
    with (run / "history.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


OPTIONS = ("municipios", "--steps", "200", "--engine", "fused", "--batch-size", "33")
KINDS = ["mlp", *(pytest.param(k, marks=pytest.mark.slow) for k in ("bigram", "rnn", "gru", "transformer"))]


@pytest.mark.seconds
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_what_one_does(kind: str, tmp_path: Path) -> None:
    options = [*OPTIONS, "--type", kind]
    out, err = torchrun(*options, "--out", str(tmp_path / "two")).communicate()
    assert out.count("saved in") == 1, "only the first process speaks"
    assert "200 steps, loss" in err
    alone = [sys.executable, "-m", "backhand", "train", *options, "--out", str(tmp_path / "one")]
    subprocess.run(alone, check=True, capture_output=True)
    one, two = (losses(tmp_path / name) for name in ("one", "two"))
    assert len(one) == len(two) == 200
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1.1e-6  # as many decimals are written
    runs = [backhand.Run.load(tmp_path / name) for name in ("one", "two")]
    assert runs[1].results == pytest.approx(runs[0].results, abs=1e-6)


GPUS = torch.cuda.device_count()
REFUSED = {
    "": "--engine native trains in one process; with torchrun, choose --engine fused",
    "--engine fused --batch-size 3": "--batch-size 3 is too small for 2 processes; give 2 examples to each",
    "--engine fused --device cuda": f"2 processes need a GPU each, and there are {GPUS}; give "
    + ("--nproc-per-node 1" if GPUS else "--device cpu"),
}


@pytest.mark.slow
@pytest.mark.parametrize("options", REFUSED)
def test_what_several_processes_cannot_train_is_refused_in_one_line(options: str, tmp_path: Path) -> None:
    if GPUS > 1 and "cuda" in options:
        pytest.skip("there is a GPU for each")
    job = torchrun("municipios", "--steps", "9", *options.split(), "--out", str(tmp_path / "run"))
    _, err = job.communicate()
    assert job.returncode
    lines = [line for line in err.splitlines() if line.startswith("backhand: ")]
    assert lines == [f"backhand: {REFUSED[options]}"]
    assert not (tmp_path / "run").exists()


def processes_of(job: subprocess.Popen[str]) -> dict[str, int]:
    """The training processes that a launcher has started, by their rank."""
    found = {}
    for child in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split():
        told = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {variable[5:].decode(): int(child) for variable in told if variable.startswith(b"RANK=")}
    return found


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job_and_it_goes_on(tmp_path: Path) -> None:
    options = ("municipios", "--steps", "800", "--engine", "fused", "--checkpoint-every", "200")
    out = ("--out", str(tmp_path / "run"))
    job = torchrun(*options, *out)
    history = tmp_path / "run" / "history.csv"
    while not history.exists() or len(losses(tmp_path / "run")) < 200:
        time.sleep(0.05)
        assert job.poll() is None
    os.kill(processes_of(job)["1"], signal.SIGKILL)
    _, err = job.communicate()
    (line,) = [line for line in err.splitlines() if line.startswith("backhand: ")]
    assert line.endswith("start it once more with --resume, which goes on from the last checkpoint")
    torchrun(*out, "--resume", "--engine", "fused").communicate()
    again = backhand.Run.load(tmp_path / "run")
    assert again.step == 800
    alone = [sys.executable, "-m", "backhand", "train", *options, "--out", str(tmp_path / "one")]
    subprocess.run(alone, check=True, capture_output=True)
    assert again.results == pytest.approx(backhand.Run.load(tmp_path / "one").results, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["01", "1"])
def test_ctrl_c_is_saved_whomever_it_comes_to_first(ranks: str, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "run"))
    job = torchrun("municipios", "--steps", "20000", "--engine", "fused", *out)
    while not processes_of(job) or not (tmp_path / "run" / "history.csv").exists():
        time.sleep(0.05)
    time.sleep(1)
    for rank in ranks:  # a terminal sends it to all
        os.kill(processes_of(job)[rank], signal.SIGINT)
    _, err = job.communicate()
    (line,) = [line for line in err.splitlines() if line.startswith("backhand: ")]
    assert "steps, which are saved" in line
    assert backhand.Run.load(tmp_path / "run").step > 0


@pytest.mark.slow
def test_a_job_that_torchrun_ends_says_how_to_go_on(tmp_path: Path) -> None:
    job = torchrun("municipios", "--steps", "20000", "--engine", "fused", "--out", str(tmp_path / "run"))
    while not processes_of(job) or not (tmp_path / "run" / "history.csv").exists():
        time.sleep(0.05)
    os.kill(processes_of(job)["0"], signal.SIGTERM)  # as it does where another process has ended
    _, err = job.communicate()
    (line,) = [line for line in err.splitlines() if line.startswith("backhand: ")]
    assert line.startswith("backhand: the job was ended; start it once more with --resume")
