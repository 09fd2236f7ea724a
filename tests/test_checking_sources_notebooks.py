"""Students' notebooks: every habit of theirs is accepted, every mistake is told with its cell and named."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import backhand
from backhand.errors import CheckError
from student_notebook import CELLS, EMBEDDING, number, write_notebook

KEEP = ", keepdim=True"

# (cell, what is written, what stands there instead, the culprit, the kinds that name it rightly)
MISTAKES = {
    "a lost keepdim": ("norm", "(-dbndiff).sum(0, keepdim=True)", "(-dbndiff).sum(0)", "bnmeani", "shape"),
    "a lost keepdim of gain": ("norm", "dhpreact).sum(0" + KEEP, "dhpreact).sum(0", "bngain", "shape"),
    "an extra keepdim": ("embedding", "dhprebn.sum(0)", "dhprebn.sum(0, keepdim=True)", "b1", "shape"),
    "an extra keepdim of b2": ("logits", "dlogits.sum(0)", "dlogits.sum(0, keepdim=True)", "b2", "shape"),
    "un-expanded": ("norm", "*torch.ones_like(bndiff2) * dbnvar", "* dbnvar", "bndiff2", "shape"),
    "no branch through bndiff2": (
        "norm",
        "dbndiff += (2*bndiff) * dbndiff2\n",
        "",
        "bndiff",
        "missing_branch",
    ),
    "no branch through bnmeani": (
        "norm",
        "dhprebn += 1.0/n * (torch.ones_like(hprebn) * dbnmeani)\n",
        "",
        "hprebn",
        "missing_branch",
    ),
    "1 / logprobs": ("softmax", "(1.0 / probs)", "(1.0 / logprobs)", "probs", "wrong_point"),
    "the derivative of x**-1 is -1": ("logits", "(-counts_sum**-2) *", "-1 *", "counts_sum", "wrong_point"),
    "the exponent of the variance": ("norm", "**-1.5)", "**-0.5)", "bnvar", "wrong_point"),
    "no sum over a broadcast axis": (
        "softmax",
        "(counts * dprobs).sum(1, keepdim=True)",
        "(counts * dprobs)",
        "counts_sum_inv",
        "unreduced",
    ),
    "no upstream": ("logits", "(1.0 - h**2) * dh", "(1.0 - h**2)", "hpreact", "wrong_upstream"),
    "the next derivative too early": (
        "softmax",
        "(1.0 / probs) *",
        "counts / probs *",
        "probs",
        "wrong_point",
    ),
    "an alias": ("norm", "dbndiff.clone()", "dbndiff", "bndiff", "aliased"),
    "a wrong operand": ("logits", "(1.0 - h**2)", "(1.0 - hpreact**2)", "hpreact", "wrong_point"),
    "a wrong upstream": ("norm", "bngain * dhpreact", "bngain * dh", "bnraw", "wrong_upstream"),
    "a sign": ("norm", "(-dbndiff).sum", "(dbndiff).sum", "bnmeani", "sign"),
    "ones_like for zeros_like": (
        "softmax",
        "zeros_like(logprobs)",
        "ones_like(logprobs)",
        "logprobs",
        None,
    ),
    "ones_like for zeros_like, before a sum": (
        "embedding",
        "zeros_like(C)",
        "ones_like(C)",
        "C",
        "repeated_branch",
    ),
    "the fused loss without 1 / n": ("fused loss", "dlogits /= n\n", "", "logits", "scale"),
    "the fused norm without n - 1": ("fused norm", "n/(n-1)*", "", "hprebn", "scale"),
    "the fused norm without 1 / n": ("fused norm", "bnvar_inv/n *", "bnvar_inv *", "hprebn", "scale"),
    "db1 of zeros": ("embedding", "db1 = dhprebn.sum(0)", "db1 = torch.zeros_like(b1)", "b1", "zero"),
    "no branch through logit_maxes": (
        "logits",
        "dlogits += F.one_hot(logits.max(1).indices, num_classes=logits.shape[1]) * dlogit_maxes\n",
        "",
        "logits",
        "missing_branch",
    ),
    "scattered rows overwritten": ("embedding", "dC[ix] += demb", "dC[ix] = demb", "C", "overwritten"),
}


@pytest.mark.seconds
@pytest.mark.parametrize("name", MISTAKES)
def test_a_students_mistake_is_told_with_its_cell_and_named(name: str, tmp_path: Path) -> None:
    cell, old, new, culprit, kind = MISTAKES[name]
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", (cell, old, new)), draws=1)
    (row,) = report.culprits
    assert (row.name, row.cell) == (culprit, number(cell)), str(report)
    assert kind is None or row.mistake.kind == kind, str(report)
    assert f"{row.cell}, line {row.lines[0].number} | {row.lines[0].text}" in str(report)


def test_the_right_notebook_is_right_in_all_its_exercises(tmp_path: Path) -> None:
    report = backhand.check_file(write_notebook(tmp_path / "ninja.ipynb"))
    assert report.ok, str(report)
    assert not report.warnings
    twice = [row.cell for row in report.rows if row.name == "logits"]
    assert twice == [number("logits"), number("fused loss"), number("training")]
    assert [row.cell for row in report.rows if row.name == "hprebn"] == [number("norm"), number("fused norm")]
    assert {r.name for r in report.rows if r.verdict == "vacuous"} == {"b1", "logit_maxes"}
    assert report.unmatched == ("dcounts2",)
    assert [p.name for p in tmp_path.iterdir()] == ["ninja.ipynb"]


def test_what_was_missing_after_a_cell_is_told_of_a_gradient_that_a_later_one_completes(
    tmp_path: Path,
) -> None:
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb"), draws=1)
    row = report["counts"]
    assert (row.verdict, row.cell) == ("right", number("logits"))
    assert row.note == f"after {number('softmax')}, so far: the branch through counts_sum is missing"
    assert f"dcounts: {row.note}" in str(report)


def test_a_notebook_stopped_early_is_nothing_wrong_so_far(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb")
    report = backhand.check_file(path, stop_after=5, draws=1)
    assert str(report).startswith("n.ipynb: nothing wrong so far. ")
    assert not report.ok
    assert report["counts"].note == "so far: the branch through counts_sum is missing"
    assert f"{report['counts'].gradient}  {report['counts'].note}" in str(report)
    ended = backhand.check_file(write_notebook(tmp_path / "e.ipynb", until="softmax"), draws=1)
    assert [(r.name, r.mistake.kind) for r in ended.culprits] == [("counts", "missing_branch")]


def test_a_branch_that_is_missing_where_the_gradient_is_used_is_an_alarm_before_the_end(
    tmp_path: Path,
) -> None:
    path = write_notebook(tmp_path / "n.ipynb", ("logits", "dcounts += dcounts2\n", ""))
    report = backhand.check_file(path, stop_after=6, draws=1)
    assert [row.name for row in report.culprits] == ["counts"]


def test_a_gradient_belongs_to_the_loss_that_depends_on_its_tensor(tmp_path: Path) -> None:
    aside = "a = torch.randn(3, 2, requires_grad=True)\nloss = a.exp().sum()\nda = 2 * a.exp()"
    path = write_notebook(tmp_path / "n.ipynb", ("softmax", "dloss = 1.0", aside), until="embedding")
    report = backhand.check_file(path, draws=1)
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("a", "scale")]
    assert report["logprobs"].verdict == report["C"].verdict == "right"


SO_FAR = "cmp('dcounts so far', dcounts, counts)"


def test_to_look_at_a_gradient_is_no_use_of_it(tmp_path: Path) -> None:
    look = "softmax", SO_FAR, "print(dcounts)\ndcounts.shape"
    anew = "logits", "dcounts_sum = (-", "dcounts = counts_sum_inv * dprobs\ndcounts_sum = (-"
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", look, anew), draws=1)
    assert report.ok, str(report)


def test_a_line_that_only_shows_a_gradient_is_none_of_its_lines(tmp_path: Path) -> None:
    shown = (
        "dh = dlogits @ W2.T",
        "dlogits.abs().max()\nprint(dlogits)\ndlogits.shape\ndh = 2 * dlogits @ W2.T",
    )
    looked = "dhpreact = (1", "dh.lost()\ndhpreact = (1"
    cells = ("logits", *shown), ("logits", *looked)
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", *cells), draws=1)
    assert [line.text for line in report["h"].lines] == ["dh = 2 * dlogits @ W2.T"]
    first = next(row for row in report.rows if row.name == "logits")
    assert [line.text.split("=")[0] for line in first.lines] == ["dlogits ", "dlogits +"]
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("h", "scale")], str(report)


@pytest.mark.seconds
def test_a_try_that_raised_and_was_given_up_is_not_judged(tmp_path: Path) -> None:
    early = "softmax", SO_FAR, "dC = torch.zeros_like(C)\nfor k in range(3):\n    dC[Xb[k,0]] += demb[k,0]"
    filler = "logits", "dcounts_sum = (-", "demb = torch.zeros_like(emb)\ndcounts_sum = (-"
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", early, filler), draws=1)
    assert report.ok, str(report)
    assert any("raised NameError" in note for note in report.notes)


def test_a_cell_that_does_the_last_one_s_work_again_is_right(tmp_path: Path) -> None:
    lines = CELLS["logits"].splitlines(keepends=True)
    begun = "softmax", SO_FAR, "".join(lines[:7])
    again = "logits", "".join(lines[:4]), ""
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", begun, again), draws=1)
    assert report.ok, str(report)


def test_a_last_gradient_that_is_made_twice_belongs_to_its_own_exercise(tmp_path: Path) -> None:
    begins, ends = "dC = torch.zeros_like(C)\n", "        dC[ix] += demb[k,j]\n"
    loop = EMBEDDING[EMBEDDING.index(begins) : EMBEDDING.index(ends) + len(ends)]
    at_once = begins + "dC = torch.zeros_like(C).index_put((Xb,), demb, accumulate=True)\n"
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", ("embedding", loop, at_once)), draws=1)
    assert report.ok, str(report)
    assert [row.cell for row in report.rows if row.name == "C"] == [number("embedding")]


def test_an_exercise_done_twice_is_told_by_its_own_lines(tmp_path: Path) -> None:
    cells = ("softmax", "logits", "norm", "embedding")
    again = "".join(CELLS[cell] for cell in cells).replace(
        "(-dbndiff).sum(0, keepdim=True)", "-dbndiff.sum(0)"
    )
    change = "fused loss", CELLS["fused loss"], again
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", change), draws=1)
    assert [(row.name, row.mistake.kind) for row in report.culprits] == [("bnmeani", "shape")]
    assert {line.file for line in report["bnmeani"].lines} == {number("fused loss")}


def test_a_gradient_that_the_next_exercise_leaves_blank_stays_judged(tmp_path: Path) -> None:
    logits = CELLS["logits"]
    rest = logits[logits.index("dh = ") :]
    blank = "fused loss", CELLS["fused loss"], "dlogits = None # TODO. my solution is 3 lines\n"
    others = [(cell, CELLS[cell], "") for cell in ("norm", "embedding", "fused norm")]
    report = backhand.check_file(
        write_notebook(tmp_path / "n.ipynb", ("logits", rest, ""), blank, *others), draws=1
    )
    verdicts = [(row.cell, row.verdict) for row in report.rows if row.name == "logits"]
    assert verdicts[:2] == [(number("logits"), "right"), (number("fused loss"), "todo")]


@pytest.mark.seconds
def test_a_function_of_the_notebook_reads_the_variables_of_each_draw(tmp_path: Path) -> None:
    begins, ends = "dC = torch.zeros_like(C)\n", "        dC[ix] += demb[k,j]\n"
    loop = EMBEDDING[EMBEDDING.index(begins) : EMBEDDING.index(ends) + len(ends)]
    helper = (
        "def scattered():\n    return torch.zeros_like(C).index_put((Xb,), demb, accumulate=True)\n\n"
        "dC = scattered()\n"
    )
    change = "embedding", loop, helper
    assert backhand.check_file(write_notebook(tmp_path / "right.ipynb", change, until="embedding")).ok
    change = "embedding", loop, helper.replace("scattered()\n", "2 * scattered()\n")
    wrong = write_notebook(tmp_path / "wrong.ipynb", change, until="embedding")
    assert [row.name for row in backhand.check_file(wrong).culprits] == ["C"]


@pytest.mark.seconds
def test_a_gradient_wrong_in_two_exercises_is_told_twice(tmp_path: Path) -> None:
    changes = ("logits", "(-dnorm_logits).sum", "(dnorm_logits).sum"), ("fused loss", "dlogits /= n\n", "")
    first = ("logits", "dlogits = dnorm_logits.clone()", "dlogits = -dnorm_logits.clone()")
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", first, changes[1]), draws=1)
    assert [(r.name, r.cell) for r in report.culprits] == [
        ("logits", number("logits")),
        ("logits", number("fused loss")),
    ]
    assert report["hprebn"].verdict in ("follows", "right")


def test_a_gradient_that_is_used_through_a_temporary_only_is_judged_in_each_exercise(tmp_path: Path) -> None:
    used = CELLS["logits"][CELLS["logits"].index("dh = ") :]
    through = "up = dlogits * 1.0\n" + used.replace("dlogits", "up")
    path = write_notebook(tmp_path / "n.ipynb", ("logits", used, through))
    twice = [row.cell for row in backhand.check_file(path, draws=1).rows if row.name == "logits"]
    assert twice[:2] == [number("logits"), number("fused loss")]


def test_a_wrong_exercise_1_does_not_spoil_exercise_2(tmp_path: Path) -> None:
    wrong = ("logits", "dcounts += dcounts2\n", "")
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", wrong), draws=1)
    verdicts = {row.cell: row.verdict for row in report.rows if row.name == "logits"}
    assert verdicts == {
        number("logits"): "follows",
        number("fused loss"): "right",
        number("training"): "right",
    }


def test_training_and_rebound_parameters_leave_the_verdicts_alone(tmp_path: Path) -> None:
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb"), draws=1)
    assert report["W1"].verdict == "right"
    note = f"{number('training')}: the loop is judged by its first turn; it is left after that."
    assert note in report.notes


def test_a_wrong_gradient_in_the_training_loop_is_found_below_a_right_exercise(tmp_path: Path) -> None:
    wrong = "training", "dW2 = h.T @ dlogits", "dW2 = 2 * h.T @ dlogits"
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", wrong), draws=1)
    assert [(r.name, r.cell, r.mistake.kind) for r in report.culprits] == [
        ("W2", number("training"), "scale")
    ]


def test_a_training_loop_makes_one_turn(tmp_path: Path) -> None:
    turns = "training", "    for i in range(3):\n", "    for i in range(10**9):\n"
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", turns), draws=1, time_limit=60)
    assert report.ok, str(report)
    assert not any("was left" in note for note in report.notes)


def test_a_table_says_which_cell_assigned_which_gradients(tmp_path: Path) -> None:
    lines = str(backhand.check_file(write_notebook(tmp_path / "n.ipynb"), draws=1)).splitlines()
    table = [line.split() for line in lines[lines.index(next(x for x in lines if "maxdiff" in x)) + 1 :]]
    firsts = [(words[0], words[1]) for words in table if words[0].isdigit()]
    assert firsts == [
        ("5", "dlogprobs"),
        ("6", "dcounts_sum"),
        ("7", "dbngain"),
        ("8", "dW1"),
        ("9", "dlogits"),
        ("10", "dhprebn"),
        ("12", "dlogits"),
    ]


# (cell, what is written, what stands there instead): all of them right
HABITS = {
    "probs.grad as the upstream": ("softmax", "counts_sum_inv * dprobs", "counts_sum_inv * probs.grad"),
    "+= written out": ("logits", "dcounts += dcounts2", "dcounts = dcounts + dcounts2"),
    "/= in place": ("softmax", "= -1.0/n\n", "= -1.0\ndlogprobs /= n\n"),
    "index_add": (
        "embedding",
        "dC[ix] += demb[k,j]",
        "pass\ndC.index_add_(0, Xb.view(-1), demb.view(-1, n_embd))",
    ),
    "a helper after the forward": ("norm", "dbngain = (bnraw", "m = n - 1\ndbngain = (bnraw"),
    "a temporary that looks like a gradient": (
        "norm",
        "dbndiff += (2*bndiff) * dbndiff2",
        "dbn_diff_2 = (2*bndiff) * dbndiff2\ndbndiff += dbn_diff_2",
    ),
    "a comment that asks": ("norm", "dbnraw = bngain * dhpreact", "dbnraw = bngain * dhpreact # right?"),
    "a timed line": ("norm", "dbnraw = bngain", "%time dbnraw = bngain"),
    "a shell command in several lines": ("utility", "# utility", "!echo one \\\n  two\nx = !ls\n# utility"),
    "IPython's own functions": ("plot", "plt.show()", "get_ipython().system('ls')\ndisplay(dlogits)"),
    "the loss taken out of torch": ("fused loss", "loss_fast = F", "loss = loss.item()\nloss_fast = F"),
    "the loss computed anew": (
        "fused loss",
        "loss_fast = F.cross_entropy(logits, Yb)\n",
        "loss_fast = loss.detach().clone()\nloss = F.cross_entropy(logits, Yb)\n",
    ),
    "a forward of its own": ("fused loss", "loss_fast = F", "logits = h @ W2 + b2\nloss_fast = F"),
}  # fmt: skip


@pytest.mark.seconds
@pytest.mark.parametrize("name", HABITS)
def test_a_students_habit_is_no_fault(name: str, tmp_path: Path) -> None:
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", HABITS[name]), draws=1)
    assert report.ok, str(report)
    judged = [row for row in report.rows if row.verdict in ("right", "vacuous")]
    assert len(judged) == 31, str(report)


def test_a_cell_that_raises_half_way_is_judged_on_what_it_had_assigned(tmp_path: Path) -> None:
    raising = ("logits", "dW2 = h.T @ dlogits", "dW2 = h @ dlogits")
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", raising), draws=1)
    assert [(r.name, r.mistake.kind) for r in report.culprits] == [("W2", "transposed")]
    assert report.raised.line.text == "dW2 = h @ dlogits"
    assert f"line 9 of {number('logits')}" in str(report)
    assert report["logprobs"].verdict == "right"


@pytest.mark.seconds
def test_a_line_that_is_half_written_is_not_said_to_be_blank(tmp_path: Path) -> None:
    for line, told in (
        ("dW2 = = h.T", "half written: dW2 = = h.T"),
        ("dW2 = None", "still blank: dW2 = None"),
    ):
        path = write_notebook(tmp_path / "n.ipynb", ("logits", "dW2 = h.T @ dlogits", line))
        report = backhand.check_file(path, draws=1)
        assert ("todo", told) in [(row.verdict, row.note) for row in report.rows if row.name == "W2"]
        assert report["logprobs"].verdict == "right"


def test_a_cell_that_raises_outside_the_gradients_is_told(tmp_path: Path) -> None:
    report = backhand.check_file(
        write_notebook(tmp_path / "n.ipynb", ("plot", "plt.show()", "if True:\n    import nowhere")), draws=1
    )
    assert report.ok
    assert "cell 13 raised ModuleNotFoundError: No module named 'nowhere'" in report.notes
    assert not report.unfinished  # it is far from any gradient: everything was judged


def test_what_a_function_of_another_cell_raises_is_told_by_the_line_that_calls_it(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", ("plot", "plt.show()", "\ncmp('h', 'dh', h)"))
    report = backhand.check_file(path, draws=1)
    assert report.ok
    assert any(note.startswith(f"{number('plot')} raised ") for note in report.notes)


@pytest.mark.seconds
def test_what_raises_after_a_cell_that_was_left_is_only_noted(tmp_path: Path) -> None:
    slow = "training", "lossi = []\n", "import time\ntime.sleep(30)\nlossi = []\n"
    path = write_notebook(tmp_path / "n.ipynb", slow, ("plot", "plt.show()", "plt.plot(lossi)"))
    report = backhand.check_file(path, draws=1, time_limit=3)
    assert report.ok, str(report)
    assert any(f"{number('plot')} raised NameError" in note for note in report.notes)
    assert not report.unfinished


def test_a_line_that_python_cannot_read_is_left_out_and_told(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", ("embedding", "dW1 = embcat.T @ dhprebn", "dW1 = "))
    report = backhand.check_file(path, draws=1)
    assert any(f"not run: {path}, {number('embedding')}, line 2" in note for note in report.notes)
    assert [(u.cell, u.line.text) for u in report.unfinished] == [(number("embedding"), "dW1 =")]
    assert {r.name for r in report.rows if r.verdict == "todo"} == {"W1"}
    assert report["C"].verdict == "right"
    assert not report.culprits


def test_what_stands_below_a_line_that_is_not_finished_is_judged_too(tmp_path: Path) -> None:
    begun = "logits", "dhpreact = (1.0 - h**2) * dh", "dhpreact = (1.0 - h**2) *"
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", begun), draws=1)
    assert {r.name for r in report.rows if r.verdict == "todo"} == {"hpreact"}
    assert report["bnraw"].verdict == report["W2"].verdict == "right"
    wrong = "norm", "(-dbndiff).sum(0, keepdim=True)", "(-dbndiff).sum(0)"
    report = backhand.check_file(write_notebook(tmp_path / "w.ipynb", begun, wrong), draws=1)
    assert [row.name for row in report.culprits] == ["bnmeani"]


def test_a_cell_whose_lines_all_begin_with_blanks_is_dedented(tmp_path: Path) -> None:
    blanks = "".join(f"    {line}" for line in CELLS["logits"].splitlines(keepends=True))
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", ("logits", CELLS["logits"], blanks)))
    assert report.ok, str(report)


def test_an_older_try_that_raised_leaves_a_right_cell_below_it_right(tmp_path: Path) -> None:
    older = "softmax", SO_FAR, "dh = not_there_yet @ W2.T\ndhpreact = 2 * dh\n"
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", older), draws=1)
    assert report.ok, str(report)
    assert any("NameError: name 'not_there_yet'" in note for note in report.notes)


@pytest.mark.seconds
def test_gradients_below_a_forward_in_a_loop_are_judged(tmp_path: Path) -> None:
    forward = CELLS["forward"].removeprefix("%%time\n")
    looped = "for turn in range(1):\n" + "".join(f"    {x}" for x in forward.splitlines(keepends=True))
    change = "forward", CELLS["forward"], looped
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", change), draws=1)
    assert report.ok, str(report)
    wrong = "norm", "(-dbndiff).sum", "(dbndiff).sum"
    report = backhand.check_file(write_notebook(tmp_path / "w.ipynb", change, wrong), draws=1)
    assert [row.name for row in report.culprits] == ["bnmeani"]


def test_a_file_that_a_skipped_command_would_have_fetched_is_told_and_may_lie_elsewhere(
    tmp_path: Path,
) -> None:
    fetch = (
        "utility",
        "# utility",
        "from google.colab import drive\ndrive.mount('/content')\n!wget https://a.b/names.txt\n# utility",
    )
    reads = "parameters", "g = torch", "words = open('names.txt').read().split()\ng = torch"
    path = write_notebook(tmp_path / "n.ipynb", fetch, reads)
    with pytest.raises(CheckError) as caught:
        backhand.check_file(path)
    assert "`!wget https://a.b/names.txt`" in str(caught.value)
    assert "--data DIR" in str(caught.value)
    assert "assigns 'loss', but it did not come to that" in str(caught.value)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "names.txt").write_text("anna\nbo\n")
    assert backhand.check_file(path, data=tmp_path / "data", draws=1).ok


def test_what_ends_python_in_a_notebook_is_told_with_its_line_not_with_one_of_the_file(
    tmp_path: Path,
) -> None:
    ends = "logits", CELLS["logits"], "import os\nos._exit(0)\n"
    with pytest.raises(CheckError, match=r"^n.ipynb: `os._exit\(0\)`: it ended Python itself"):
        backhand.check_file(write_notebook(tmp_path / "n.ipynb", ends, until="logits"))


def test_two_forwards_in_one_notebook_are_two_sets_of_gradients(tmp_path: Path) -> None:
    second = "A = torch.randn(3, 4, requires_grad=True)\nout = (A * A).sum(1)\nloss = out.mean()\n"
    second += "dout = torch.ones(3) / 3\ndA = A * dout[:, None]\n"
    path = write_notebook(tmp_path / "n.ipynb", ("fused norm", CELLS["fused norm"], second))
    report = backhand.check_file(path, draws=1)
    assert [(r.name, r.mistake.kind, r.cell) for r in report.culprits] == [
        ("A", "scale", number("fused norm"))
    ]
    assert [row.name for row in report.rows if row.cell == number("fused norm")] == [
        "out",
        "A",
    ]  # in the order of the cells
    assert report["W1"].verdict == "right"


def test_a_draft_that_the_same_cell_makes_again_is_a_note_and_in_another_cell_a_fault(tmp_path: Path) -> None:
    draft = "dh = 2 * dlogits @ W2.T\ndhpreact = (1.0 - h) * dh\n"
    again = "dh = dlogits @ W2.T\n"
    report = backhand.check_file(
        write_notebook(tmp_path / "n.ipynb", ("logits", again, draft + again), until="logits"), draws=1
    )
    assert not report.culprits, str(report)
    (note,) = [n for n in report.notes if "made twice" in n]
    assert note == f"{number('logits')}: dh and dhpreact are made twice; the last one is judged."
    used = again + "dbnbias = dhpreact.sum(0, keepdim=True)\n"  # made of the draft
    path = write_notebook(tmp_path / "w.ipynb", ("logits", again, draft + used), until="logits")
    assert backhand.check_file(path, draws=1).culprits


@pytest.mark.parametrize(("old", "new", "told"), [
    ("dbnvar_inv", "dbnvarinv", "dbnvarinv (did you mean dbnvar_inv?)"),
    ("dbngain", "dbngian", "dbngian (did you mean dbngain?)"),
])  # fmt: skip
def test_a_misspelt_gradient_is_told_with_the_one_that_may_be_meant(
    old: str, new: str, told: str, tmp_path: Path
) -> None:
    change = "norm", CELLS["norm"], CELLS["norm"].replace(old, new)
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", change, until="norm"), draws=1)
    assert report[old].got is None
    assert told in str(report)
    assert str(report).count("did you mean") == 1  # dcounts2 is a temporary, near nothing
    assert told in report.to_html()


@pytest.mark.parametrize("copied", [
    "h.grad", "h.grad.clone()", "torch.autograd.grad(loss, h, retain_graph=True)[0]",
])  # fmt: skip
def test_autograds_own_answer_is_said_to_be_that(copied: str, tmp_path: Path) -> None:
    change = "logits", "dh = dlogits @ W2.T", f"dh = {copied}"
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", change, until="logits"), draws=1)
    assert report["h"].verdict == "right"
    assert "autograd's own answer, copied" in report["h"].note
    assert [row.name for row in report.rows if "copied" in row.note] == ["h"]
    assert report["hpreact"].verdict == "right"


@pytest.mark.seconds
def test_an_upstream_gradient_that_is_read_from_autograd_is_not_called_unused(tmp_path: Path) -> None:
    change = "logits", "(1.0 - h**2) * dh", "(1.0 - 3 * h**3) * h.grad"
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", change, until="logits"), draws=1)
    (row,) = report.culprits
    assert row.name == "hpreact"
    assert "not used" not in row.mistake.message


def test_gradients_below_a_line_that_raised_share_one_footnote(tmp_path: Path) -> None:
    raising = "logits", "dh = dlogits @ W2.T", "dh = dlogits * W2.T"
    text = str(backhand.check_file(write_notebook(tmp_path / "n.ipynb", raising, until="logits"), draws=1))
    assert text.count("not reached: a line above raised") == 1
    assert "multiplies element by element" in text


# lines that a training loop may have in place of the first, the minibatch being drawn within the loop
DRAWN = {
    "by an earlier cell's generator": "ix = torch.randint(0, 20, (n,), generator=g); Xb, Yb = X[ix], Y[ix]",
    "by a function of an earlier cell": "Xb, Yb = batch()",
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_training_loop_that_draws_its_minibatch_is_right(name: str, tmp_path: Path) -> None:
    data = "X = torch.randint(0, vocab_size, (20, block_size), generator=g)\n"
    data += "Y = torch.randint(0, vocab_size, (20,), generator=g)\n"
    data += "def batch():\n    ix = torch.randint(0, 20, (n,), generator=g)\n    return X[ix], Y[ix]\n"
    begins = "        emb = C[Xb]\n"
    assert begins in CELLS["training"]
    changes = [
        ("parameters", "C = torch.randn", data + "C = torch.randn"),
        ("training", begins, f"        {DRAWN[name]}\n{begins}"),
    ]
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", *changes), draws=2)
    assert report.ok, str(report)


TABLE = """\
import torch
import torch.nn.functional as F
g = torch.Generator().manual_seed(5)
X, Y = torch.randint(0, 6, (90,)), torch.randint(0, 5, (90,))
T = torch.randn(6, 5, requires_grad=True)
ix = torch.randint(0, 90, (8,), generator=g)
Xb, Yb = X[ix], Y[ix]
scores = T[Xb]
loss = F.cross_entropy(scores, Yb)
loss.backward()
"""
BY_HAND = """\
    dscores = F.softmax(scores, 1)
    dscores[range(8), Yb] -= 1
    dscores /= 8
"""
AT_ONCE = "    dT = torch.zeros_like(T).index_add_(0, Xb, dscores)\n"
ROW_BY_ROW = (
    "    dT = torch.zeros_like(T)\n    for k in range(8):\n        ix = Xb[k]\n        dT[ix] += dscores[k]\n"
)


def of_a_table(path: Path, exercise: str, training: str) -> backhand.Report:
    draws = "    ix = torch.randint(0, 90, (8,), generator=g)\n    Xb, Yb = X[ix], Y[ix]\n"
    forward = f"{draws}    scores = T[Xb]\n    loss = F.cross_entropy(scores, Yb)\n"
    loop = f"for step in range(2000):\n{forward}{BY_HAND}{training}    T.data -= 0.1 * dT\n"
    cells = [TABLE, f"if True:\n{BY_HAND}{exercise}", loop]
    nbformat.write(new_notebook(cells=[new_code_cell(text) for text in cells]), path)
    return backhand.check_file(path)


@pytest.mark.parametrize("made", [AT_ONCE, ROW_BY_ROW])
def test_a_table_whose_gradient_is_added_up_is_right_in_an_exercise_and_in_training(
    made: str, tmp_path: Path
) -> None:
    """`torch.zeros_like(T).index_add_(...)` changes something new, not torch, which draws the minibatch."""
    report = of_a_table(tmp_path / "n.ipynb", made, made)
    assert [(r.gradient, r.verdict) for r in report.rows] == 2 * [("dscores", "right"), ("dT", "right")]


def test_an_error_is_no_multiple_of_that_on_another_minibatch(tmp_path: Path) -> None:
    """The name `ix` is used again, so that the forward draws the minibatch: each run has one of its own."""
    wrong = ROW_BY_ROW.replace("dscores[k]", "dscores[k] / 8")
    rows = of_a_table(tmp_path / "n.ipynb", ROW_BY_ROW, wrong).rows
    assert [row.verdict for row in rows] == ["right", "right", "right", "wrong"]
    assert all(row.multiple is not None and row.multiple < 10 for row in rows[:2])
    assert rows[3].multiple is None or rows[3].multiple > 1000
