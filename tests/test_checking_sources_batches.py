"""Several files at once, each in a process of its own: whatever one of them does, the others are judged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration

import backhand
from backhand.errors import CheckError

PASS = """import ctypes, os, signal, sys, threading, time, torch

out = "y"

def inputs(generator):
    return {"x": torch.randn(3, generator=generator)}

def forward(x):
    y = x * x
    return locals()

def backward(dy, x):
    dx = 2 * x * dy
    return locals()
"""
HELD = "    dx = 2 * x * dy\n"


def within(line: str) -> str:
    return PASS.replace(HELD, f"    {line}\n{HELD}")


KERNELS = """import torch

class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x
    @staticmethod
    def backward(ctx, dy):
        return 2 * ctx.saved_tensors[0] * dy

class OneMore(Square):
    pass

class CubeRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 3 * x
    @staticmethod
    def backward(ctx, dy):
        return 2 * dy

def square_reference(x): return x * x
def reference_cube_root(x): return 3 * x
def inputs(generator): return {"x": torch.randn(3, generator=generator)}
"""

HOSTILE = {
    "abort.py": (within("os.abort()"), "line 13: it ended Python itself (Aborted)"),
    "atexit.py": ("import atexit, os\natexit.register(os._exit, 0)\n" + PASS, ""),
    "catches.py": (
        within("while True:\n        try: time.sleep(99)\n        except BaseException: pass"),
        "line 14 was still running after 6 s",
    ),
    "closes.py": (within("os.closerange(3, 99)"), "it ended Python itself"),
    "deaf.py": (within("while True: pass"), "line 13: `while True: pass` was still running after 6 s"),
    "exec.py": (within("os.execvp('sleep', ['sleep', '30'])"), "nothing was judged"),
    "forks.py": (within("os.fork()"), ""),
    "interrupts.py": (within("raise KeyboardInterrupt"), "line 13: `raise KeyboardInterrupt` raised Key"),
    "kills.py": (within("os.kill(os.getpid(), 9)"), "it ended Python itself (SIGKILL)"),
    "leaves.py": (within("ctypes.CDLL(None)._exit(0)"), "it ended Python itself"),
    "module.py": (PASS + "raise GeneratorExit\n", "module.py raised GeneratorExit (module.py, line 15:"),
    "null.py": ("x = 1\0\n", "null.py"),
    "reads.py": (PASS + "input()\n", "reads.py raised EOFError"),
    "stops.py": (within("os.kill(os.getpid(), signal.SIGSTOP)"), "it stopped itself"),
    "text.py": ("# coding: latin-1\n# \xe9\n" + PASS, ""),
    "unknown.py": ("# coding: nonsense\n" + PASS, "unknown encoding"),
}


@pytest.mark.seconds
def test_whatever_a_file_does_the_others_are_judged(tmp_path: Path) -> None:
    for name, (text, _) in HOSTILE.items():
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    (tmp_path / "mark.py").write_bytes(b"\xef\xbb\xbf" + PASS.encode())
    (tmp_path / "helper.py").write_text("raise AssertionError('a file with nothing to check was run')\n")
    (tmp_path / "kernels.py").write_text(KERNELS)
    long = "a" * 5000 + ".py"
    found = list(backhand.check_files([tmp_path, tmp_path / "gone.py", long], jobs=2, time_limit=6))
    assert "File name too long" in found.pop().problem
    by_name = {(one.path.name, one.name): one for one in found}
    assert [one.path.name for one in found if not one.name] == [*sorted({*HOSTILE, "mark.py"}), "gone.py"]
    for name, (_, told) in HOSTILE.items():
        one = by_name[name, ""]
        assert one.state == ("not judged" if told else "right"), (name, one.problem)
        assert told in one.problem
        assert "\n" not in one.problem
    assert by_name["mark.py", ""].state == "right"
    assert "No such file" in by_name["gone.py", ""].problem
    states = {name: one.state for (file, name), one in by_name.items() if file == "kernels.py"}
    assert states == {"Square": "right", "CubeRoot": "wrong"}


def test_there_must_be_something_to_check(tmp_path: Path) -> None:
    (tmp_path / "notes.py").write_text("x = 1\n")
    with pytest.raises(CheckError, match="nothing to check"):
        backhand.check_files([tmp_path])
    with pytest.raises(CheckError, match="jobs is 0"):
        backhand.check_files([tmp_path], jobs=0)


def test_of_several_things_in_a_file_one_report_cannot_be_given(tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text(KERNELS)
    with pytest.raises(CheckError, match="holds several, Square and CubeRoot"):
        backhand.check_file(tmp_path / "kernels.py")
    pair = PASS.replace("def forward", "def tall_forward").replace("def backward", "def tall_backward")
    (tmp_path / "pairs.py").write_text(pair + pair[pair.index("def tall_f") :].replace("tall", "wide"))
    found = list(backhand.check_files([tmp_path / "pairs.py"]))
    assert [(one.name, one.state) for one in found] == [("tall", "right"), ("wide", "right")]


def cli(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "backhand", "check", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


# A device beside the CPU, as far as autograd's engine sees: it keeps threads for it from its first use on.
ANOTHER_DEVICE = """
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as register
register("another")
"""


@pytest.mark.seconds
@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this release of PyTorch has no devices made in Python",
)
def test_a_file_is_judged_where_there_is_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(ANOTHER_DEVICE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "a.py").write_text(PASS)
    done = cli(tmp_path, "a.py")
    assert (done.returncode, done.stderr) == (0, "")


NOISY = within("os.write(1, b'from C'); os.system('echo from a shell'); print('hello')")


@pytest.mark.seconds
def test_several_files_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(NOISY)
    (tmp_path / "b.py").write_text(PASS.replace("2 * x", "3 * x"))
    done = cli(tmp_path, "a.py", "b.py", "--json")
    assert done.returncode == 1, done.stderr
    told = [(one["file"], one["ok"], one["culprits"], one["problem"]) for one in json.loads(done.stdout)]
    assert told == [("a.py", True, [], None), ("b.py", False, ["x"], None)]
    assert "from C" in done.stderr
    assert "from a shell" in done.stderr


@pytest.mark.slow
def test_names_and_code_steer_no_terminal(tmp_path: Path) -> None:
    bell = "\x1b]0;title\x07 \u202e"
    (tmp_path / "s\x1b[31m.py").write_text(PASS.replace("2 * x * dy", f"3 * x * dy  # {bell}"))
    done = cli(tmp_path, "s\x1b[31m.py", "--html", "sheet.html")
    assert done.returncode == 1, done.stderr
    sheet = (tmp_path / "sheet.html").read_text()
    for text in (done.stdout, done.stderr, sheet):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "\\x1b]0;title\\x07" in sheet
    assert "Content-Security-Policy" in sheet
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s\x1b[31m.py", "sheet.html"]
