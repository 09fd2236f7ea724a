import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import backhand
from backhand import Run, cli
from backhand.learning.blanking import solved
from backhand.learning.course import find
from backhand.learning.folder import write_course
from student_notebook import write_notebook

Main = tuple[int, str, str]


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Call the command line in this process, in an empty folder; return status, output and errors."""

    def call(*arguments: str) -> Main:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["backhand", *arguments])
        status = 0
        try:
            cli.main()
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.mark.seconds
def test_a_cell_that_raises_far_from_any_gradient_is_a_note(run_cli, tmp_path: Path) -> None:
    path = str(write_notebook(tmp_path / "n.ipynb", ("plot", "plt.show()", "plt.plot(lost)")))
    status, out, err = run_cli("check", path, "--draws", "1")
    assert (status, err) == (0, "")
    assert out.startswith("n.ipynb: right. 29 gradients agree with autograd, 2 vacuous.")
    assert "cell 13 raised NameError: name 'lost' is not defined" in out


@pytest.mark.seconds
@pytest.mark.parametrize(("lost", "advice"), [(4, ", or try --stop-after 3.\n"), (3, ".\n")])
def test_to_stop_before_is_advised_where_a_gradient_is_left_to_judge(
    run_cli, tmp_path: Path, lost: int, advice: str
) -> None:
    cells = [
        "import torch",
        "x = torch.randn(3, requires_grad=True)\nloss = (x * x).sum()",
        "dx = 2 * x",
        "print(x)",
    ]
    cells.insert(lost - 1, "raise SystemExit('no')")
    found = [
        {"cell_type": "code", "source": [text], "metadata": {}, "outputs": [], "execution_count": None}
        for text in cells
    ]
    path = tmp_path / "n.ipynb"
    path.write_text(json.dumps({"cells": found, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    status, _, err = run_cli("check", str(path), "--draws", "1")
    assert status == 2
    assert err.startswith(f"backhand: cell {lost}, line 1 raised SystemExit")
    assert err.endswith(f"mend it{advice}")


@pytest.mark.seconds
def test_wrong_gradients_stay_status_1_though_a_cell_raises(run_cli, tmp_path: Path) -> None:
    changes = ("plot", "plt.show()", "lost"), ("softmax", "-1.0/n", "1.0/n")
    status, _, err = run_cli("check", str(write_notebook(tmp_path / "n.ipynb", *changes)), "--draws", "1")
    assert (status, err) == (1, "")


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        ("print(lost)", 0, ""),
        ("raise SystemExit('no')", 2, "s.py, line 5 raised SystemExit: no, so not everything was judged"),
        ("raise SystemExit", 0, ""),
    ],
)
def test_a_script_that_raises_after_right_gradients(
    run_cli, tmp_path: Path, end: str, status: int, error: str
) -> None:
    text = "import torch\nx = torch.randn(3, requires_grad=True)\nloss = (x * x).sum()\ndx = 2 * x\n"
    (tmp_path / "s.py").write_text(text + end + "\n")
    got, out, err = run_cli("check", "s.py")
    assert (got, out.split(".")[1]) == (status, "py: right")
    assert error in err
    assert len(err.splitlines()) == bool(error)


def test_help_does_not_wait_for_pytorch() -> None:
    code = (
        "import sys; sys.argv = ['backhand', '--help']\n"
        "from backhand.cli import main\n"
        "try: main()\n"
        "except SystemExit as leaving: assert not leaving.code\n"
        "assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(verb in result.stdout for verb in ("train", "evaluate", "sample", "inspect"))


@pytest.mark.seconds
def test_importing_backhand_is_silent_and_leaves_pytorch_alone() -> None:
    code = "import sys, backhand; assert 'torch' not in sys.modules; print(backhand.train.__name__)"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("train\n", "")


def checked(path: Path, package: str) -> list[str]:
    """Check a file in a new process; return what that shows, and last whether it imported a package."""
    code = (
        f"import sys; sys.argv = ['backhand', 'check', {path.name!r}]\n"
        "from backhand.cli import main\n"
        "try: main()\n"
        f"finally: print({package!r} in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=path.parent, capture_output=True, text=True)
    return result.stdout.splitlines()


@pytest.mark.seconds
def test_a_check_imports_pytorch_only_in_the_process_that_judges(tmp_path: Path) -> None:
    (tmp_path / "layers.py").write_text(
        "import numpy as np\ndef relu_forward(x): return np.maximum(x, 0), x\n"
        "def relu_backward(dout, cache): return dout * (cache > 0)\n"
    )
    shown = checked(tmp_path / "layers.py", "torch")
    assert "relu_backward: right." in "".join(shown)
    assert shown[-1] == "False"


A_PASS = """
def inputs(generator): return {"x": torch.randn(4, generator=generator)}
def forward(x):
    loss = (x * x).sum()
    return locals()
def backward(x): return {"dx": 2 * x}
"""
A_KERNEL = """
class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x
    @staticmethod
    def backward(ctx, dy): return 2 * ctx.saved_tensors[0] * dy
def reference(x): return x * x
def inputs(generator): return {"x": torch.randn(4, generator=generator)}
"""


@pytest.mark.slow
@pytest.mark.parametrize("text", [A_PASS, A_KERNEL])
def test_a_check_does_not_wait_for_sympy(text: str, tmp_path: Path) -> None:
    (tmp_path / "given.py").write_text(f"import torch\n{text}")
    shown = checked(tmp_path / "given.py", "sympy")
    assert " right. 1 gradient " in shown[0]
    assert shown[-1] == "False"


def test_the_version_can_be_asked_for(run_cli) -> None:
    assert run_cli("--version") == (0, "backhand 0.1.0\n", "")


@pytest.mark.seconds
def test_training_from_the_command_line_in_a_log_is_short(run_cli, tmp_path: Path) -> None:
    status, out, err = run_cli("train", "municipios", "--steps", "300", "--n-hidden", "12")
    assert status == 0
    *lines, worse = err.splitlines()
    assert 1 <= len(lines) <= 10
    assert lines[-1].startswith("300 of 300 steps, loss ")
    assert worse.startswith("backhand: worse than counting pairs of letters: dev loss ")
    assert worse.endswith("Try more --steps, a larger model (--n-hidden 200)")
    assert "train" in out
    assert "saved in runs/municipios" in out
    run = Run.load(tmp_path / "runs" / "municipios")
    assert run.config.n_hidden == 12
    assert all(f"{loss:.4f}" in out for loss in run.results.values())
    assert all(word in out for word in (run.path / "samples.txt").read_text().split("\n"))
    assert "\x1b" not in out + err


def test_every_option_of_training_is_a_flag(run_cli) -> None:
    _, out, _ = run_cli("train", "--help")
    for name in (field.name for field in dataclasses.fields(backhand.TrainConfig)):
        assert name == "words" or "--" + name.replace("_", "-") in out


def test_a_csv_column_is_trained_on_with_its_cleaning(run_cli, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "id,town\n" + "".join(f'{i},"Ñora {"ab"[i % 2] * i}, El"\n' for i in range(1, 13))
    )
    options = [
        "--column",
        "town",
        "--clean",
        "swap",
        "ascii",
        "lower",
        "--steps",
        "5",
        "--n-hidden",
        "4",
        "--batch-size",
        "4",
        "--json",
    ]
    status, out, _ = run_cli("train", "t.csv", *options)
    assert status == 0
    assert json.loads(out)["step"] == 5
    assert Run.load(tmp_path / "runs" / "t").vocabulary.letters == " abelnor"


@pytest.mark.seconds
def test_evaluate_sample_and_inspect_show_text_and_json(run_cli, small_run: Run, tmp_path: Path) -> None:
    path = str(small_run.path)
    status, out, err = run_cli("evaluate", path, "--split", "dev")
    assert (status, err) == (0, "")
    assert f"{small_run.results['dev']:.4f}" in out
    scores = json.loads(run_cli("evaluate", path, "--json")[1])
    assert [s["loss"] for s in scores] == list(small_run.results.values())
    assert {"perplexity", "bits_per_character", "bigram", "uniform", "contexts", "words"} <= set(scores[0])

    status, out, _ = run_cli("sample", path, "-n", "7", "--prefix", "mar", "--seed", "5")
    assert status == 0
    assert len(out.splitlines()) == 7
    samples = json.loads(run_cli("sample", path, "-n", "7", "--prefix", "mar", "--seed", "5", "--json")[1])
    for line, sample in zip(out.splitlines(), samples, strict=True):
        assert line == sample["word"]  # marks are for a terminal
    assert run_cli("sample", path, "-n", "7", "--prefix", "mar", "--seed", "5", "--out", "s.txt")[1] == ""
    assert (tmp_path / "s.txt").read_text() == out

    status, out, _ = run_cli("inspect", path, "--png", "maps.png")
    assert status == 0
    assert all(name in out for name in ("bnmeani", "dlogits", "dC", "units beyond it for every example"))
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    inspection = json.loads(run_cli("inspect", path, "--json")[1])
    assert [g["name"] for g in inspection["backward"]][-1] == "dC"
    assert run_cli("inspect", "names", "--n-hidden", "16")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train nothing.txt", "there is no file 'nothing.txt', nor an embedded list"),
        ("train empty.txt", "empty.txt holds no words"),
        ("train binary.txt", "binary.txt is a binary file"),
        ("train latin1.txt", "latin1.txt, line 2: byte 0xeb is not UTF-8"),
        ("train dot.txt", "dot.txt, line 2: 'st. ives' holds '.'"),
        ("train table.csv --column city", "no column 'city'; its columns are: 'id', 'town'"),
        ("train one.txt", "made of one letter"),
        ("train few.txt", "too few to split"),
        ("train --batch-size 1", "--batch-size is 1; batch norm needs"),
        ("train --n-hidden 0", "--n-hidden is 0"),
        ("train --steps 10 --out .", "holds other things than a run"),
        ("train --device toaster", "--device 'toaster' cannot be used here"),
        ("train --resume --out gone", "'gone' is not a run folder"),
        ("evaluate gone", "'gone' is not a run folder"),
        ("sample gone", "'gone' is not a run folder"),
        ("inspect gone", "there is no file 'gone'"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(run_cli, tmp_path: Path, arguments: str, message: str) -> None:
    files = {
        "empty.txt": b"",
        "binary.txt": b"a\0b",
        "latin1.txt": b"ava\nzo\xeb\n",
        "dot.txt": b"ava\nst. ives\n",
        "table.csv": b"id,town\n1,Elx\n",
        "one.txt": b"aa\naaa\n" * 9,
        "few.txt": b"ann\nbob\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    status, out, err = run_cli(*arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith("backhand: ")
    assert message in err
    assert err.count("\n") == 1
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files


WRONG = """
import torch

out = "y"


def inputs(generator):
    return {"x": torch.randn(6, 4, generator=generator), "w": torch.randn(4, 3, generator=generator)}


def forward(x, w):
    y = x @ w
    return locals()


def backward(dy, x, w):
    dw = x.T @ dy
    dx = -dy @ w.T
    return locals()
"""


@pytest.mark.seconds
def test_a_wrong_backward_is_told_with_status_1_and_a_right_one_with_0(run_cli, tmp_path: Path) -> None:
    (tmp_path / "layer.py").write_text(WRONG)
    status, out, err = run_cli("check", "layer.py", "--html", "sheet.html")
    assert (status, err) == (1, "")
    assert "dx  sign" in out
    assert "| dx = -dy @ w.T" in out
    assert "<html" in (tmp_path / "sheet.html").read_text()
    status, out, _ = run_cli("check", "layer.py", "--json")
    assert status == 1
    assert json.loads(out)["culprits"] == ["x"]
    (tmp_path / "layer.py").write_text(WRONG.replace("-dy", "dy"))
    assert run_cli("check", "layer.py")[0] == 0
    status, out, _ = run_cli("check")
    assert status == 0
    assert "24 gradients agree with autograd, 2 vacuous" in out


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["gone.py", "broken.py", "broken.ipynb", "notes.txt"])
def test_a_file_that_cannot_be_checked_gets_one_line(run_cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.py").write_text("def forward(:")
    (tmp_path / "broken.ipynb").write_text("not JSON")
    (tmp_path / "notes.txt").write_text("hello")
    status, out, err = run_cli("check", name)
    assert (status, out) == (2, "")
    assert name in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_the_course_can_be_listed_judged_and_reset(run_cli, tmp_path: Path) -> None:
    write_course(tmp_path / "learn")
    (tmp_path / "learn" / "01_product.py").write_text("mine")
    status, out, _ = run_cli("learn", "--check", "--json")
    assert status == 1
    assert json.loads(out)["done"] is False
    status, out, _ = run_cli("learn", "--reset", "01_product")
    assert status == 0
    assert "01_product is blank again" in out
    assert "da = ..." in (tmp_path / "learn" / "01_product.py").read_text()
    assert (tmp_path / "learn" / "01_product.py.old").read_text() == "mine"
    assert run_cli("learn", "--reset", "nothing")[0] == 2


def test_sampling_refuses_an_unknown_letter(run_cli, small_run: Run) -> None:
    status, out, err = run_cli("sample", str(small_run.path), "--prefix", "zoë")
    assert (status, out) == (2, "")
    assert "'zoë' holds 'ë'" in err


@pytest.mark.parametrize("kind", ["lstm", ""])
def test_a_type_that_there_is_not_is_refused_with_those_that_there_are(run_cli, kind: str) -> None:
    status, _, err = run_cli("train", "--type", kind)
    assert status == 2
    assert err.strip() == (
        f"backhand: there is no --type {kind!r}; choose from bigram, mlp, rnn, gru, transformer"
    )


def test_a_run_that_fails_exits_with_1(run_cli) -> None:
    status, _, err = run_cli("train", "--steps", "100", "--n-hidden", "8", "--rate", "1e39")
    assert status == 1
    assert "is the first tensor that is not finite" in err


@pytest.mark.seconds
@pytest.mark.parametrize("option", [pytest.param("", marks=pytest.mark.slow), "--json"])
def test_a_reader_that_has_gone_is_no_error(small_run: Run, option: str) -> None:
    command = f"{sys.executable} -m backhand sample {small_run.path} -n 20 {option} | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("", "")


def test_ctrl_c_ends_any_verb_with_130_and_without_a_traceback(
    run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(backhand, "check_file", interrupted)
    assert run_cli("check") == (130, "", "backhand: interrupted\n")


def test_a_course_is_done_with_status_0_when_asked_and_listed_with_0_in_any_case(
    run_cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Progress:
        done = False

        def __str__(self) -> str:
            return "how far"

    monkeypatch.setattr(backhand, "judge_folder", lambda folder, numpy: Progress())
    assert run_cli("learn", "--check")[:2] == (1, "how far\n")
    assert run_cli("learn", "--list")[:2] == (0, "how far\n")
    Progress.done = True
    assert run_cli("learn", "--check")[:2] == (0, "how far\n")


@pytest.mark.slow
def test_a_check_that_takes_long_says_so_and_finds_the_data(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "words.txt").write_text("abc\n")
    (tmp_path / "s.py").write_text(
        "import time, torch\nwords = open('words.txt').read()\nx = torch.randn(3, requires_grad=True)\n"
        "loss = (x * x).sum()\ntime.sleep(2.2)\ndx = 2 * x\n"
    )
    command = [sys.executable, "-m", "backhand", "check", "s.py", "--data", "there", "--draws", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(".")[1]) == (0, "py: right")
    assert done.stderr == "still at it: s.py\n"


@pytest.mark.seconds
def test_the_precision_of_a_comparison_is_an_option(run_cli, tmp_path: Path) -> None:
    text = "import torch\nout = 'y'\ndef inputs(g): return {'x': torch.randn(4, 3, generator=g)}\n"
    text += "def forward(x):\n    y = x * x\n    return locals()\n"
    text += "def backward(dy, x):\n    dx = 2.001 * x * dy\n    return locals()\n"
    (tmp_path / "p.py").write_text(text)
    assert run_cli("check", "p.py")[0] == 1
    status, out, _ = run_cli("check", "p.py", "--rtol", "0.01")
    assert status == 0
    assert "Judged in float64" in out
    assert "Judged in float32" in run_cli("check", "p.py", "--dtype", "float32")[1]


def test_learn_without_a_terminal_judges_once_and_leaves(run_cli, monkeypatch: pytest.MonkeyPatch):
    called: list[tuple[object, dict]] = []

    def learn(folder: Path, **options: object) -> str:
        called.append((folder, options))
        return "how far"

    monkeypatch.setattr("backhand.learn", learn)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert run_cli("learn", "exercises")[:2] == (0, "how far\n")
    monkeypatch.setattr("sys.stdin", None)
    assert run_cli("learn", "exercises")[:2] == (0, "how far\n")
    assert called == [(Path("exercises"), {"numpy": False})] * 2


@pytest.mark.seconds
def test_a_run_says_whose_backward_trained_it_and_a_wrong_one_trains_nothing(run_cli, tmp_path: Path) -> None:
    exercise = find("mlp_chunked")
    own = tmp_path / exercise.file_name
    own.write_text(solved(exercise))
    options = ("municipios", "--backward", own.name, "--steps", "20", "--n-hidden", "8", "--out", "run")
    status, out, _ = run_cli("train", *options)
    assert status == 0
    assert f"the backward of {own.name}, batch norm" in " ".join(out.split())
    own.write_text(solved(exercise).replace("dhpreact = (1 - h**2) * dh", "dhpreact = (1 - h) * dh"))
    status, out, err = run_cli("train", *options, "--overwrite")
    assert (status, out) == (1, "")
    assert f"{own.name} is not trained with before it is right." in err
    assert "`1 - h` stands where `1 - h ** 2` belongs" in err
