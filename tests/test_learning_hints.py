"""Hints go from a question to the answer, and say nothing that is not true of the line."""

import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from attempting import changed, judged
from backhand.learning.attempts import unjudged
from backhand.learning.blanking import answer, asked, blank
from backhand.learning.course import Exercise, course, find
from backhand.learning.hints import hints, shapes_of, uses

KINDS = ["question", "shapes", "derivative", "rule", "answer"]


@pytest.mark.parametrize("exercise", course(), ids=lambda e: e.name)
def test_every_gradient_has_lines_to_ask_about(exercise: Exercise):
    assert all(uses(exercise, name[1:]) for name in asked(exercise))


def test_the_steps_name_the_gradient_its_shapes_and_its_derivative_before_the_rule(tmp_path: Path):
    exercise = find("broadcasting")
    steps = hints(judged(tmp_path, exercise, blank(exercise)))
    assert [step.kind for step in steps] == KINDS
    assert "level was repeated along axis 1 to fit" in steps[1].text
    assert all("-dy" not in step.text for step in steps[:3])
    assert "dlevel gets -dy, summed over axis 1" in steps[3].text
    assert "dlevel = -dy.sum(1, keepdim=True)" in steps[4].text


def test_a_hint_speaks_of_broadcasting_only_where_something_was_broadcast(tmp_path: Path):
    exercise = find("product")
    told = "\n".join(step.text for step in hints(judged(tmp_path, exercise, blank(exercise))))
    assert "repeated" not in told
    assert "summed" not in told


def test_what_is_wrong_is_asked_about_first(tmp_path: Path):
    exercise = find("layer_norm")
    steps = hints(
        judged(tmp_path, exercise, changed(exercise, ("dy.reshape(-1, dy.shape[-1]).sum(0)", "dy")))
    )
    assert steps[0].text.startswith("dbias: Where the forward broadcast a tensor")


@pytest.mark.parametrize(("name", "old", "new", "told"), [
    ("gelu", "du = (1 - t**2) * dt", "du = (1 - torch.tanh(u)**2) * dt", "add `u` to them"),
    ("exp_log", "de = dtotal", "dee = dtotal", "has dee, and there is no such tensor: did you mean de?"),
    ("power", "** -1.5", "** -0.5", "Of x ** p the derivative is p * x ** (p - 1)"),
    ("mean_square", "torch.ones_like(squared) / n", "dloss / n", "after loss: its own gradient is 1"),
    ("tanh", "(1 - h**2) * dh", "1 - h**2 * dh", "A product is worked out before a sum"),
    ("multi_head_attention", "djoined.unflatten(-1, (heads, e)).transpose(-3, -2)",
     "djoined.reshape(v.shape)", "undo the same moves on the gradient"),
])  # fmt: skip
def test_a_beginners_error_has_words_of_its_own(name, old, new, told, tmp_path: Path):
    exercise = find(name)
    attempt = judged(tmp_path, exercise, changed(exercise, (old, new)))
    assert told in hints(attempt)[0].text


@pytest.mark.seconds
@pytest.mark.parametrize(("name", "old", "new", "told"), [
    ("exp_log", "dx = e * de", "dx = e + de", "`e + de` adds where `e * de` belongs"),
    ("tanh", "(1 - h**2)", "(1 - h)", "`1 - h` stands where `1 - h ** 2` belongs"),
    ("power", "** -1.5", "** -0.5", "a power has the wrong exponent, `-0.5`"),
    ("tanh", "(1 - h**2) * dh", "1 - h**2 * dh", "stands where `(1 - h ** 2) * dh` belongs"),
    ("exp_log", "de = dtotal", "de = 1 + dtotal", "de: a term is off at `1`"),
    ("power", "(total + 0.1) ** -1.5", "total ** -1.5", "not at what the forward's line for inverse applies"),
    ("matrix_product", "dz @ W.T", "W @ dz", "or in the other order, and so it is elsewhere in it"),
    ("tanh", "dz.unsqueeze(1).expand_as(products)", "dz", "right values, not expanded over axis 1"),
    ("rnn_running", "dhnext = da", "dhnext += da", "`+=` stands where `=` belongs"),
    ("rnn_running", "hs[t].T @ da", "hs[t + 1].T @ da", "`hs[t + 1]` stands where `hs[t]` belongs"),
    ("transformer_block", "dmiddle = dy + ", "dmiddle = ", "dmiddle: the branch through y is missing. Exp"),
])  # fmt: skip
def test_a_beginners_error_is_told_as_what_it_is(name, old, new, told, tmp_path: Path):
    exercise = find(name)
    attempt = judged(tmp_path, exercise, changed(exercise, (old, new)))
    assert told in attempt.next_gradient.reason


def test_the_hint_for_shared_memory_shows_the_two_lines_that_matter(tmp_path: Path):
    exercise = find("mlp_chunked")
    steps = hints(judged(tmp_path, exercise, changed(exercise, ("dbndiff.clone()", "dbndiff"))))
    assert [step.kind for step in steps] == ["question", "answer"]
    _, shares, changes = steps[0].text.splitlines()
    assert "| dhprebn = dbndiff " in shares
    assert "| dhprebn += 1 / n * dbnmeani" in changes
    assert "dhprebn = dbndiff.clone()" in steps[1].text


EVERY = (*course(), *course(numpy=True))
QUICK = ("exp_log", "batch_norm", "cross_entropy_fused", "tied_weights", "rnn", "numpy max_pool")


def label(exercise: Exercise) -> str:
    return "numpy " * exercise.numpy + exercise.name


def placed(text: str, name: str, told: str) -> str:
    """Write an answer into a file as one who reads nothing else does: each line where its like stands."""
    first, _, second = told.partition("further down, ")
    head = next((line for line in first.splitlines() if re.match(r"for .*:$", line)), None)
    for sign, part in (("=", first), (r"\+=", second.partition(":\n")[2])):
        if part and (head is None or sign != "="):
            pattern = rf"^    {name} {sign} \.\.\..*$"
            lines = textwrap.indent(part.strip("\n"), "    ")
            text, places = re.subn(pattern, lambda _, its=lines: its, text, flags=re.MULTILINE)
            assert places == 1, (name, told)
    return text if head is None else in_loop(text, name, head, first.partition(f"{head}\n")[2].splitlines())


def in_loop(text: str, name: str, head: str, told: list[str]) -> str:
    """Write the lines of an answer's loop into the file's loop, in the answer's order, each once."""
    lines = text.splitlines()
    at = lines.index(f"    {head}") + 1
    if lines[at].strip().startswith("..."):
        del lines[at]
    for own in (f"    {line}" for line in told):
        if not own.startswith(" " * 8):  # it stands below the loop
            lines = [own if line.startswith(f"    {name} = ...") else line for line in lines]
        elif own in lines[at:]:
            at = lines.index(own, at) + 1
        else:
            lines.insert(at, own)
            at += 1
    return "\n".join(lines) + "\n"


@pytest.mark.seconds
@pytest.mark.parametrize(
    "exercise",
    [pytest.param(e, marks=[] if label(e) in QUICK else [pytest.mark.slow]) for e in EVERY],
    ids=label,
)
def test_who_writes_down_every_answer_has_solved_it_and_was_told_of_no_mistake(exercise, tmp_path: Path):
    text = blank(exercise)
    attempt = judged(tmp_path, exercise, text)
    for _ in range(2 * len(asked(exercise))):
        gradient = attempt.next_gradient
        if gradient is None:
            break
        text = placed(text, gradient.name, hints(attempt)[-1].text)
        attempt = judged(tmp_path, exercise, text)
        assert not attempt.problem
        assert {g.verdict for g in attempt.gradients} <= {"right", "vacuous", "todo"}
    assert attempt.done


@pytest.mark.parametrize("exercise", EVERY, ids=label)
def test_every_gradient_has_every_step_and_a_rule_made_of_what_can_be_known(exercise, tmp_path: Path):
    """All that a rule names is in the file, or explained by the rule itself."""
    path = tmp_path / exercise.file_name
    path.write_text(blank(exercise))
    parameters = set(re.findall(r"\w+", blank(exercise).partition("def backward(")[2].partition("):")[0]))
    for gradient in unjudged(exercise, path, "").gradients:
        steps = hints(replace(unjudged(exercise, path, ""), gradients=(gradient,)))
        assert [step.kind for step in steps] == KINDS, gradient.name
        rule = steps[3].text
        for untrue in ("if it was", "no rule for", "** 1 ", ".T.T", ".mT.T", "the gradient of"):
            assert untrue not in rule, rule
        tensors = {f"d{name}" for name in shapes_of(exercise) if name.isidentifier()}
        named = {name for name in re.findall(r"\bd\w+", re.sub("`.*?`", "", rule)) if name in tensors}
        explained = re.findall(r"(?:, and|:) (d\w+) is|^(dloss) is 1", rule, re.MULTILINE)
        assert named <= {*asked(exercise), *parameters, *(name for found in explained for name in found)}, (
            rule
        )


def test_a_rule_that_needs_a_gradient_without_a_place_tells_that_too(tmp_path: Path):
    exercise = find("swiglu")
    attempt = judged(
        tmp_path, exercise, changed(exercise, ("dgate = dsilu * (s + silu * (1 - s))", "dgate = ..."))
    )
    assert "ds gets gate * dsilu" in hints(attempt)[3].text
    named = ("dgate = dsilu * (s + silu * (1 - s))", "ds = gate * dsilu\n    dgate = ...")
    assert "ds gets" not in hints(judged(tmp_path, exercise, changed(exercise, named)))[3].text


def test_a_product_of_more_than_two_axes_has_a_rule_that_fits(tmp_path: Path):
    exercise = find("multi_head_attention")
    rule = hints(judged(tmp_path, exercise, blank(exercise)))[3].text
    assert "dWo gets joined.reshape(-1, joined.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])" in rule
    attempt = judged(tmp_path, exercise, changed(exercise, ("dv = weights.mT @ dmixed", "dv = ...")))
    assert "dv gets weights.mT @ dmixed" in hints(attempt)[3].text


def test_who_asks_a_tensor_for_its_device_does_not_use_it():
    assert uses(find("attention"), "q") == ("scores = scale * (q @ k.transpose(-2, -1))",)


def test_an_answer_keeps_the_condition_under_which_a_line_stands():
    lines = answer(find("rnn"), "dWhh")
    assert lines[-2:] == ("    if t > 0:", "        dWhh += hs[t - 1].T @ dpre")


def test_in_a_loop_a_gradient_is_asked_for_after_those_that_it_is_made_of(tmp_path: Path):
    exercise = find("rnn")
    attempt = judged(tmp_path, exercise, blank(exercise))
    assert attempt.next_gradient is not None
    assert attempt.next_gradient.name == "dWhy"
    assert attempt.gradients[0].name == "dx"


def test_the_two_stages_of_a_gradient_have_each_its_place_in_the_answer(tmp_path: Path):
    exercise = find("mlp_chunked")
    begun = ("dcounts += dcounts_sum  # second branch, through counts_sum", "dcounts += ...")
    steps = hints(judged(tmp_path, exercise, changed(exercise, begun)))
    assert steps[-1].text.splitlines() == [
        "further down, after dcounts_sum:",
        "dcounts += dcounts_sum  # second branch, through counts_sum",
    ]


def test_a_learner_is_not_sent_to_a_report(tmp_path: Path):
    exercise = find("indexing")
    attempt = judged(
        tmp_path, exercise, changed(exercise, ("dtable = torch.zeros_like(table)", "dtable = drows[index]"))
    )
    assert attempt.next_gradient is not None
    assert attempt.next_gradient.row.mistake.kind == "unexplained"
    assert (
        hints(attempt)[0].text == "dtable: What happens to a row of the table that occurs twice in `index`?"
    )


def test_an_answer_does_not_repeat_what_the_file_has_already(tmp_path: Path):
    exercise = find("product", numpy=True)
    attempt = judged(tmp_path, exercise, blank(exercise))
    assert hints(attempt)[-1].text == "da = b * dout  # (n,)"
    exercise = find("convolution_by_columns", numpy=True)
    text = blank(exercise).replace(
        "dw = ...", "dw = (dout.transpose(1, 0, 2, 3).reshape(len(w), -1) @ cols).reshape(w.shape)"
    )
    attempt = judged(tmp_path, exercise, text.replace("db = ...", "db = dout.sum(axis=(0, 2, 3))"))
    assert "np.add.at(dpadded, " in hints(attempt)[-1].text
    assert "pyright" not in hints(attempt)[-1].text
