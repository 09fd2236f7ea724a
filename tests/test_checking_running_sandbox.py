"""The sandbox: whatever the user's code sets is afterwards as it was, and each run draws the same numbers."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import backhand
from backhand.checking.running.alarms import OutOfTimeError, limited
from backhand.checking.running.sandbox import running, sandbox

RIGHT = (
    "def forward(x):\n    y = x * x\n    return locals()\n\n"
    "def backward(dy, x):\n    dx = 2 * x * dy\n    return locals()\n\n"
    "def inputs(generator):\n    return {'x': torch.randn(3, generator=generator)}\n\nout = 'y'\n"
)
SCRIPT = "x = torch.randn(3, requires_grad=True)\nloss = (x * x).sum()\ndx = 2 * x\n"


def check_which(meddle: Callable[[], Any], *, then: BaseException | None = None) -> backhand.Report:
    """Check a right pass whose backward meddles with something, and perhaps raises."""

    def forward(x):
        y = x * x
        return locals()

    def backward(dy, x):
        meddle()
        if then is not None:
            raise then
        dx = 2 * x * dy
        return locals()

    return backhand.check(forward, backward, inputs={"x": torch.tensor([1.0, -2.0, 3.0])}, out="y")


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "default dtype": (torch.get_default_dtype, lambda: torch.set_default_dtype(torch.bfloat16)),
    "threads": (torch.get_num_threads, lambda: torch.set_num_threads(3)),
    "grad mode": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(False)),
    "anomaly mode": (torch.is_anomaly_enabled, lambda: torch.autograd.set_detect_anomaly(True)),
    "deterministic mode": (
        torch.are_deterministic_algorithms_enabled,
        lambda: torch.use_deterministic_algorithms(True),
    ),
    "matmul precision": (
        torch.get_float32_matmul_precision,
        lambda: torch.set_float32_matmul_precision("medium"),
    ),
    "recursion limit": (sys.getrecursionlimit, lambda: sys.setrecursionlimit(5000)),
    "folder": (Path.cwd, lambda: os.chdir("/")),
    "sys.path": (lambda: list(sys.path), lambda: sys.path.insert(0, "/nowhere")),
    "the list sys.path": (lambda: id(sys.path), lambda: setattr(sys, "path", [])),
    "environment": (lambda: dict(os.environ), lambda: os.environ.update(PAGER="other")),
    "NumPy's errors": (np.geterr, lambda: np.seterr(all="ignore", under="warn")),
    "sys.argv": (lambda: list(sys.argv), lambda: setattr(sys, "argv", ["other"])),
    "standard output": (lambda: sys.stdout, lambda: setattr(sys, "stdout", None)),
    "bytecode": (lambda: sys.dont_write_bytecode, lambda: setattr(sys, "dont_write_bytecode", None)),
    "warning filters": (lambda: list(warnings.filters), lambda: warnings.simplefilter("always")),
    "showwarning": (lambda: warnings.showwarning, lambda: setattr(warnings, "showwarning", print)),
    "figures": (plt.get_fignums, lambda: plt.figure(figsize=(1, 1))),
    "alarm handler": (
        lambda: signal.getsignal(signal.SIGALRM),
        lambda: signal.signal(signal.SIGALRM, signal.SIG_IGN),
    ),
    "alarm": (lambda: signal.getitimer(signal.ITIMER_REAL), lambda: signal.alarm(100)),
    "torch's random state": (lambda: torch.get_rng_state().tolist(), lambda: torch.rand(3)),
    "NumPy's random state": (lambda: str(np.random.get_state()), lambda: np.random.rand(3)),
    "Python's random state": (random.getstate, random.random),
}


@pytest.mark.parametrize("raises", [False, True], ids=["", "and raises"])
@pytest.mark.parametrize("name", SETTINGS)
def test_what_the_users_backward_sets_is_put_back(name: str, raises: bool):
    mpl.use("Agg")
    read, meddle = SETTINGS[name]
    before = read()
    report = check_which(meddle, then=ValueError("no") if raises else None)
    assert read() == before
    assert (report.raised is not None) == raises


def test_an_interrupted_check_puts_everything_back_as_well():
    before = torch.get_default_dtype(), torch.get_rng_state().tolist(), random.getstate()
    with pytest.raises(KeyboardInterrupt):
        check_which(random.random, then=KeyboardInterrupt())
    assert (torch.get_default_dtype(), torch.get_rng_state().tolist(), random.getstate()) == before


def test_the_default_device_is_put_back():
    with sandbox():
        torch.set_default_device("meta")
    assert torch.empty(1).device.type == "cpu"


@pytest.fixture
def files(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "case.py"
        path.write_text("import torch\n" + text)
        return path

    return write


def test_the_backend_of_the_users_plots_is_put_back(files: Callable[[str], Path], monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "svg")
    assert backhand.check_file(files("import os\nassert os.environ['MPLBACKEND'] == 'Agg'\n" + SCRIPT)).ok
    assert os.environ["MPLBACKEND"] == "svg"


@pytest.mark.parametrize("body", [RIGHT, SCRIPT], ids=["a pass", "a script"])
def test_what_a_file_sets_holds_while_it_is_checked_and_is_put_back_then(
    files: Callable[[str], Path], body: str
):
    before = list(sys.path), sys.argv, sys.dont_write_bytecode, Path.cwd(), os.environ.get("MPLBACKEND")
    path = files(
        "import sys, os, random, signal\nimport numpy as np\nsys.path[:] = []\nsys.argv = []\nos.chdir('/')\n"
        "signal.signal(signal.SIGALRM, signal.SIG_IGN)\nnp.random.seed(3)\nrandom.seed(3)\n"
        "torch.manual_seed(3)\ntorch.set_default_dtype(torch.float64)\n" + body
    )
    states = torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()
    handler = signal.getsignal(signal.SIGALRM)
    report = backhand.check_file(path)
    assert report.ok
    assert report["x"].dtype == "float64"  # of the file's own default dtype
    assert before == (
        *(list(sys.path), sys.argv, sys.dont_write_bytecode),
        *(Path.cwd(), os.environ.get("MPLBACKEND")),
    )
    assert states == (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate())
    assert signal.getsignal(signal.SIGALRM) is handler
    assert torch.get_default_dtype() == torch.float32


def test_packages_without_a_file_are_forgotten_in_any_order(tmp_path: Path) -> None:
    leaves = [f"part{i}.inner.leaf" for i in range(8)]  # so many that some order of two would not do
    for leaf in leaves:
        file = tmp_path.joinpath(*leaf.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True)
        file.write_text("")
    (tmp_path / "case.py").write_text(f"import torch, {', '.join(leaves)}\n{RIGHT}")
    assert backhand.check_file(tmp_path / "case.py").ok
    assert not [name for name in sys.modules if name.startswith("part")]


def test_a_neighbour_of_another_folder_is_not_taken_for_ones_own(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    body = RIGHT.replace("2 * x * dy", "helper.double(x) * dy")
    for folder, factor in (("a", 2), ("b", 3)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "helper.py").write_text(f"def double(x):\n    return {factor} * x\n")
        (tmp_path / folder / "case.py").write_text("import torch\nimport helper\n" + body)
    assert backhand.check_file(tmp_path / "a" / "case.py").ok
    assert not backhand.check_file(tmp_path / "b" / "case.py").ok
    assert "helper" not in sys.modules
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.seconds
def test_a_running_alarm_rings_when_it_should(files: Callable[[str], Path]):
    rung: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    began = time.monotonic()
    try:
        backhand.check_file(files(SCRIPT), time_limit=20)
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        spent = time.monotonic() - began
        assert rung or 0 < left <= 1.0 - spent + 0.05
        with limited(0.05), pytest.raises(OutOfTimeError):
            time.sleep(5)
        while not rung and time.monotonic() < began + 5:
            time.sleep(0.01)
        assert rung
        assert rung[0] - began >= 0.99
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_alarm_that_ran_out_meanwhile_rings_at_once():
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with limited(10):
            time.sleep(0.05)
            assert not rung
        time.sleep(0.01)
        assert rung == [1]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.seconds
def test_a_time_limit_counts_what_is_computed_not_what_a_busy_machine_takes():
    began, computed = time.perf_counter(), time.thread_time()
    with limited(0.3):
        until = computed + 0.15
        while time.thread_time() < until:  # an eighth of the clock's time at most
            pause = time.thread_time() + 0.005
            while time.thread_time() < pause:
                pass
            time.sleep(0.035)
    assert time.perf_counter() - began > 0.3  # it was not ended, though the clock had passed the limit


class Cuda:
    """A CUDA device in use, as torch would show it."""

    def __init__(self) -> None:
        self.states, self.seeds = [torch.tensor([7])], []

    def seed(self, seed: int) -> None:
        self.seeds.append(seed)
        self.states = [torch.tensor([seed])]


def test_the_random_states_of_cuda_devices_in_use_are_put_back(monkeypatch: pytest.MonkeyPatch):
    cuda = Cuda()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", cuda.seed)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: list(cuda.states))
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda states: setattr(cuda, "states", states))
    assert check_which(lambda: None).ok
    assert cuda.seeds, "each run begins with the same numbers there, too"
    assert cuda.states == [torch.tensor([7])]
    with pytest.raises(KeyboardInterrupt):
        check_which(lambda: None, then=KeyboardInterrupt())
    assert cuda.states == [torch.tensor([7])]


@pytest.mark.parametrize(
    "drawn",
    [
        lambda: float(np.random.rand()) + 1,
        lambda: random.random() + 1,
        lambda: torch.rand(()).item() + 1,
        lambda: float(np.random.randn()) + 9,
    ],
    ids=["numpy", "random", "torch", "numpy's normal"],
)
def test_random_numbers_of_a_forward_are_the_same_in_every_run(drawn: Callable[[], float]):
    def forward(x):
        factor = drawn()
        h = x * factor
        y = h.tanh()
        return locals()

    def backward(dy, y, factor):
        dh = dy * (1 - y**2)
        dx = dh * factor
        return locals()

    report = backhand.check(forward, backward, inputs={"x": torch.rand(3) + 1}, out="y")
    assert report.ok, str(report)
    assert [row.verdict for row in report.rows] == ["right", "right"]
    # the float32 run beside the float64 one: with another factor, autograd itself would seem to be far off
    assert all(row.multiple is None or row.multiple < 100 for row in report.rows)
    assert not any(torch.isnan(torch.tensor(row.maxdiff)) for row in report.rows)


@pytest.mark.parametrize("draw", [np.random.rand, random.random, lambda: torch.rand(()).item()])
def test_each_run_of_a_check_begins_with_the_numbers_of_its_seed(draw: Callable[[], float]):
    drawn = []
    with sandbox():
        for seed in (5, 5, 6):
            with running(torch.float64, seed, False):
                drawn.append(draw())
                assert torch.get_default_dtype() == torch.float64
            assert (
                torch.get_default_dtype() == torch.float32
            )  # what is done between runs is not the user's code
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_run_by_itself_finds_the_numbers_of_its_seed_and_leaves_those_of_the_user():
    def drawn() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with running(torch.float64, 5, False):
        first = drawn()
    with running(torch.float64, 5, False):
        assert drawn() == first
    assert drawn() == expected


def test_a_sandbox_within_another_leaves_what_the_outer_one_holds():
    with sandbox():
        with sandbox():
            torch.set_default_dtype(torch.float64)
        assert torch.get_default_dtype() == torch.float64
    assert torch.get_default_dtype() == torch.float32


def test_checks_in_several_threads_do_not_disturb_each_other():
    reports: list[backhand.Report] = []
    within: set[int] = set()
    most: list[int] = []

    def alone() -> None:
        within.add(threading.get_ident())
        most.append(len(within))
        time.sleep(0.002)  # another thread would come in here
        within.discard(threading.get_ident())

    def work() -> None:
        reports.extend(check_which(alone) for _ in range(4))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 16
    assert all(report.ok for report in reports)
    assert max(most) == 1
    assert torch.get_default_dtype() == torch.float32


def test_a_script_prints_nothing_and_its_warnings_are_shown_all_the_same(
    files: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
):
    noisy = (
        "import warnings\ndef double(x):\n    print('hello')\n    warnings.warn('mind')\n    return 2 * x\n"
    )
    with warnings.catch_warnings(action="default"):
        warnings.showwarning = lambda message, *_: sys.stderr.write(f"shown: {message}\n")
        assert backhand.check_file(files(noisy + SCRIPT.replace("2 * x", "double(x)"))).ok
    assert capsys.readouterr() == ("", "shown: mind\n")


class Ending(BaseException):
    """Such as a library has for itself: no `Exception`."""


@pytest.mark.parametrize(
    "ending",
    [
        lambda: sys.exit(),
        lambda: sys.exit("bye"),
        lambda: os._exit(0),
        lambda: (_ for _ in ()).throw(Ending("no")),
        lambda: (_ for _ in ()).throw(GeneratorExit),
    ],
)
def test_what_ends_python_is_no_verdict_but_told_with_its_line(ending: Callable[[], Any]):
    here = Path(__file__).name
    with pytest.raises(backhand.CheckError, match=rf"{here}, line \d+: `.*nothing was judged"):
        check_which(ending)
    assert os._exit.__name__ == "_exit"


def test_an_exit_on_a_later_draw_is_no_verdict_either():
    turns = iter(range(100))
    with pytest.raises(backhand.CheckError, match="nothing was judged"):
        check_which(lambda: sys.exit() if next(turns) > 3 else None)


def test_an_exit_that_the_code_catches_or_leaves_to_a_thread_is_told():
    def caught() -> None:
        with contextlib.suppress(SystemExit):
            os._exit(0)

    def elsewhere() -> None:
        thread = threading.Thread(target=sys.exit)
        thread.start()
        thread.join()

    for meddle in (caught, elsewhere):
        with pytest.raises(backhand.CheckError, match="nothing was judged"):
            check_which(meddle)


def test_a_file_that_exits_when_it_is_imported_is_told(files: Callable[[str], Path]):
    told = r"case\.py raised SystemExit \(case\.py, line \d+: `raise SystemExit`\)"
    with pytest.raises(backhand.CheckError, match=told):
        backhand.check_file(files(RIGHT + "raise SystemExit\n"))


@pytest.mark.seconds
def test_json_is_all_that_stands_on_standard_output(files: Callable[[str], Path]):
    path = files(RIGHT.replace("    dx =", "    print('hello')\n    dx ="))
    command = [sys.executable, "-m", "backhand", "check", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] is True
    assert "hello" in done.stderr
