"""The course: exercises cannot drift from the textbook, are judged rightly, and nobody's work is lost."""

import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

import backhand
from backhand.errors import LearnError
from backhand.learning.attempts import Attempt, judge_file
from backhand.learning.blanking import answer, asked, blank, solved
from backhand.learning.course import Exercise, course, find
from backhand.learning.folder import judge_all, judge_folder, reset_exercise, write_course
from backhand.learning.hints import hints
from backhand.learning.lesson import Lesson
from backhand.learning.referee import LIMIT, Referee
from backhand.learning.watching import Pressed, Saved, events, keys_need_enter
from backhand.rendering.classroom import Screen
from typical_mistakes import MISTAKES

EXERCISES = pytest.mark.parametrize("exercise", course(), ids=lambda e: e.name)


def judged(tmp_path: Path, exercise: Exercise, text: str) -> Attempt:
    path = tmp_path / exercise.file_name
    path.write_text(text)
    return judge_file(exercise, path)


def changed(exercise: Exercise, *changes: tuple[str, str]) -> str:
    """Return the solution's file with its backward changed."""
    head, rest = solved(exercise).split("def backward", 1)
    backward, tail = rest.split("def inputs", 1)
    for old, new in changes:
        assert backward.count(old) == 1, old
        backward = backward.replace(old, new)
    return f"{head}def backward{backward}def inputs{tail}"


@EXERCISES
def test_the_solution_of_every_exercise_passes(exercise: Exercise, tmp_path: Path):
    attempt = judged(tmp_path, exercise, solved(exercise))
    assert attempt.done, attempt.to_dict()
    assert attempt.credit == 1
    assert hints(attempt) == ()


@EXERCISES
def test_the_blank_of_every_exercise_is_all_todo(exercise: Exercise, tmp_path: Path):
    attempt = judged(tmp_path, exercise, blank(exercise))
    assert {g.verdict for g in attempt.gradients} == {"todo"}
    assert not attempt.problem
    assert (attempt.done, attempt.credit) == (False, 0)


@EXERCISES
def test_a_blank_gives_every_shape_and_no_answer(exercise: Exercise):
    assert all(asked(exercise).values())
    backward = blank(exercise).split("def backward", 1)[1].split("def inputs", 1)[0]
    for name in asked(exercise):
        assert re.findall(rf"^    {name} .*", backward, re.M) == [
            f"    {name} = ...  # {asked(exercise)[name]}"
        ]
        for line in answer(exercise, name):
            code = line.split("#")[0].strip()
            if code.startswith(f"{name} = "):
                assert code not in f"{backward} {exercise.story} {exercise.question}"


@EXERCISES
def test_an_exercise_fits_the_editor(exercise: Exercise):
    assert max(len(line) for line in blank(exercise).splitlines()) <= 120
    compile(blank(exercise), exercise.file_name, "exec")


@pytest.mark.parametrize(
    ("name", "change"), [(n, c) for n, changes in MISTAKES.items() for c in changes], ids=str
)
def test_a_typical_mistake_is_named_on_its_gradient_alone(name, change, tmp_path):
    old, new, gradient, kind = change
    attempt = judged(tmp_path, find(name), changed(find(name), (old, new)))
    bad = [(g.name, g.row.mistake.kind) for g in attempt.gradients if g.verdict in ("wrong", "shape")]
    assert bad == [(gradient, kind)]
    assert not attempt.done
    assert attempt.next_gradient.name == gradient
    steps = hints(attempt)
    assert (steps[0].kind, steps[-1].kind) == ("question", "answer")
    assert gradient in steps[-1].text


def test_every_exercise_has_three_typical_mistakes():
    assert {e.name for e in course()} == set(MISTAKES)
    assert all(len(changes) >= 3 for changes in MISTAKES.values())


def test_a_gradient_that_uses_an_unfinished_one_waits_for_it(tmp_path: Path):
    text = changed(find("used_twice"), ("dq = p * dy  # (n,)", "dq = ..."))
    attempt = judged(tmp_path, find("used_twice"), text)
    assert [(g.name, g.verdict, g.waits_for) for g in attempt.gradients] == [
        ("dq", "todo", ""),
        ("dp", "todo", "dq"),
        ("da", "todo", "dp"),
        ("db", "todo", "dp"),
    ]
    assert not attempt.problem
    assert attempt.next_gradient.name == "dq"


@pytest.mark.parametrize(
    ("name", "blanked"),
    [
        ("gru", "dmemory = r * inner"),
        ("gru", "dc = torch.cat([reset, update, dmemory], 1)"),
        ("swiglu", "dsilu = up * dhidden"),
    ],
)
def test_what_is_right_stays_right_below_a_line_that_waits(name, blanked, tmp_path: Path):
    missing = blanked.split(" =")[0]
    text = changed(find(name), (blanked, f"{missing} = ..."))
    gradients = judged(tmp_path, find(name), text).gradients
    assert next(g for g in gradients if g.name == missing).verdict == "todo"
    assert {g.verdict for g in gradients if not g.waits_for and g.name != missing} == {"right"}
    wrong = text.replace("dO = hidden.T @ dy", "dO = -hidden.T @ dy").replace(
        "dz = (h - candidate)", "dz = h"
    )
    gradients = judged(tmp_path, find(name), wrong).gradients
    assert [g.verdict for g in gradients if g.name in ("dO", "dz")] == ["wrong"]


def test_a_line_that_raises_is_told_though_gradients_are_missing(tmp_path: Path):
    text = blank(find("matrix_product")).replace("dW = ...", "dW = x @ dy")
    attempt = judged(tmp_path, find("matrix_product"), text)
    assert "dW = x @ dy" in attempt.problem
    assert "RuntimeError" in attempt.problem


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("da = ...", "da = (", "line 21: '(' was never closed"),
        ("import torch", "import torch\n1 / 0", "line 10: ZeroDivisionError"),
        ("    y = a * b", "    y = a", "line 16: the forward was changed"),
        ("    return locals()\n\n\ndef backward", "\n\ndef backward", "line 14: the forward was changed"),
        ("def backward", "def forwards", "no function `backward`"),
        ("def forward(a, b)", "def forward(b, a)", "line 14: the parameters of forward were changed"),
        ("def backward(dy, a, b)", "def backward(dy, a, bb)", "asks for 'bb'"),
    ],
)
def test_a_file_that_cannot_be_judged_is_told_by_its_line(old, new, told, tmp_path):
    attempt = judged(tmp_path, find("product"), blank(find("product")).replace(old, new, 1))
    assert told in attempt.problem
    assert (attempt.done, attempt.credit) == (False, 0)


def test_what_a_file_prints_is_kept_and_stays_off_the_screen(tmp_path: Path, capfd):
    text = changed(find("product"), ("    da =", "    print('dy', tuple(dy.shape))\n    da ="))
    attempt = judged(tmp_path, find("product"), text)
    assert attempt.printed == ("dy (5,)",)
    assert capfd.readouterr() == ("", "")
    assert attempt.done


def test_a_backward_that_changes_its_input_is_not_done(tmp_path: Path):
    attempt = judged(tmp_path, find("product"), changed(find("product"), ("da = b * dy", "da = b.mul_(dy)")))
    assert not attempt.done


def test_of_several_states_under_one_name_a_wrong_one_is_told(tmp_path: Path):
    """The states of a recurrent layer are one gradient of the exercise."""
    exercise = find("rnn")
    first = judged(
        tmp_path,
        exercise,
        changed(exercise, ("dhs[t] += dys[t] @ Why.T", "dhs[t] += dys[t] @ Why.T * (2 - (t > 0))")),
    )
    states = {row.name: row.verdict for row in first.report.rows if row.name.startswith("hs[")}
    assert sorted(states.values()) == ["right"] * (len(states) - 1) + ["wrong"]
    assert {g.name: g.verdict for g in first.gradients}["dhs"] == "wrong"


@pytest.mark.parametrize(
    ("name", "gradient", "lines"),
    [
        ("matrix_product", "dx", ("dx = dz @ W.T",)),
        ("matrix_product", "dW", ("dW = x.T @ dz",)),
        ("used_twice", "da", ("da = b * dp - dq",)),
    ],
)
def test_the_answer_is_the_gradients_own_lines_without_those_of_others(name, gradient, lines):
    told = answer(find(name), gradient)
    assert tuple(line.split("  #")[0].rstrip() for line in told) == lines


def test_training_with_ones_own_backward_gives_autograds_curve(tmp_path: Path):
    training = judged(tmp_path, find("mlp_fused"), solved(find("mlp_fused"))).training
    assert training.matches
    assert training.losses[0] > 3
    assert sum(training.losses[-20:]) / 20 < 2.9


def test_training_that_leaves_autograds_curve_is_not_done(tmp_path: Path):
    late = "    CALLS.append(1)\n    if len(CALLS) > 120: dC = 0 * dC\n    return locals()"
    text = changed(find("mlp_fused"), ("    return locals()", late))
    attempt = judged(tmp_path, find("mlp_fused"), f"CALLS = []\n{text}")
    assert attempt.report.ok
    assert not attempt.training.matches
    assert not attempt.done


def test_training_that_raises_is_told(tmp_path: Path):
    late = "    CALLS.append(1)\n    if len(CALLS) > 120: raise ValueError('late')\n    return locals()"
    text = changed(find("mlp_fused"), ("    return locals()", late))
    attempt = judged(tmp_path, find("mlp_fused"), f"CALLS = []\n{text}")
    assert attempt.training.error == "ValueError: late"
    assert not attempt.done


def test_files_that_are_there_are_never_overwritten(tmp_path: Path):
    write_course(tmp_path)
    mine = tmp_path / "01_product.py"
    mine.write_text("# my work")
    (tmp_path / "02_used_twice.py").unlink()
    assert [p.name for p in write_course(tmp_path)] == ["02_used_twice.py"]
    assert mine.read_text() == "# my work"


def test_a_reset_keeps_the_old_file_beside_the_new_one(tmp_path: Path):
    write_course(tmp_path)
    path = tmp_path / "01_product.py"
    assert reset_exercise(tmp_path, "1") is None
    path.write_text("# first")
    assert reset_exercise(tmp_path, "1").read_text() == "# first"
    path.write_text("# second")
    assert reset_exercise(tmp_path, "product").read_text() == "# second"
    assert path.read_text() == blank(find("1"))


def test_a_folder_is_judged_as_data_for_graders(tmp_path: Path):
    write_course(tmp_path)
    (tmp_path / "01_product.py").write_text(solved(find("1")))
    twice = changed(find("2"), ("dp = q * dy + dq", "dp = q * dy"))
    (tmp_path / "02_used_twice.py").write_text(twice)
    data = json.loads(json.dumps(judge_folder(tmp_path).to_dict()))
    assert (data["done"], data["solved"], len(data["exercises"])) == (False, 1, 20)
    second = data["exercises"][1]
    assert second["credit"] == 0.75
    assert data["credit"] == pytest.approx(1.75 / 20, abs=1e-4)
    assert second["gradients"][1]["mistake"] == "missing_branch"
    assert "branch" in second["gradients"][1]["reason"]


def test_right_values_in_a_wrong_shape_earn_half_and_wrong_ones_nothing(tmp_path: Path):
    exercise = find("broadcasting")
    count = len(asked(exercise))
    for old, new, verdict, credit in [
        ("(x * dscaled).sum(0, keepdim=True)", "(x * dscaled).sum(0)", "shape", 0.5),
        ("(x * dscaled).sum(0, keepdim=True)", "-(x * dscaled).sum(0, keepdim=True)", "wrong", 0),
    ]:
        attempt = judged(tmp_path, exercise, changed(exercise, (old, new)))
        told = {g["name"]: (g["verdict"], g["credit"]) for g in attempt.to_dict()["gradients"]}
        assert told.pop("dscale") == (verdict, credit)
        assert all(own == 1 for _, own in told.values())
        assert attempt.credit == pytest.approx((count - 1 + credit) / count)
        assert not attempt.done


def test_a_folder_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(LearnError, match="is no folder"):
        judge_folder(tmp_path / "nowhere")
    with pytest.raises(LearnError, match=r"no exercise 'produkt'; did you mean product"):
        find("produkt")
    with pytest.raises(LearnError, match=r"no exercise '99'; there are product, used_twice"):
        find("99")


def test_learn_without_watching_writes_and_judges(tmp_path: Path):
    progress = backhand.learn(tmp_path / "learn")
    assert progress.solved == 0
    lines = str(progress).splitlines()
    assert "0/20" in lines[0]
    assert max(len(line) for line in lines) <= 80


def shown(lesson: Lesson) -> str:
    stream = io.StringIO()
    Screen(Console(file=stream, width=80, highlight=False)).show(lesson)
    return stream.getvalue()


def test_a_lesson_goes_from_mistake_to_hint_to_the_next_exercise(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    path = tmp_path / "01_product.py"
    assert "1. A product" in shown(lesson)
    path.write_text(blank(find("1")).replace("da = ...", "da = b"))
    lesson.save(path)
    assert "wrong upstream" in shown(lesson)
    for kind in ("the question", "the rule", "the answer"):
        assert kind not in shown(lesson)
        lesson.press("h")
        assert kind in shown(lesson)
    assert "da = b * dy" in shown(lesson)
    path.write_text(solved(find("1")))
    lesson.save(path)
    assert "Solved: 1. A product" in shown(lesson)
    assert "2. A value used twice" in shown(lesson)
    lesson.press("l")
    assert "20. SwiGLU" in shown(lesson)
    assert len(shown(lesson).splitlines()) < 24
    lesson.press("q")
    assert lesson.over


def test_every_exercise_fits_80_columns_and_survives_markup(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    for exercise in course():
        (tmp_path / exercise.file_name).write_text(changed(exercise, MISTAKES[exercise.name][0][:2]))
        lesson.save(tmp_path / exercise.file_name)
        text = shown(lesson)
        assert exercise.title in text
        assert "…" not in text
        assert all(g.name in text and g.verdict in text for g in lesson.progress[exercise.name].gradients)
        assert max(len(line) for line in text.splitlines()) <= 80
    (tmp_path / "01_product.py").write_text("[/red] = [bold]")
    lesson.save(tmp_path / "01_product.py")
    assert "[/red] = [bold]" in shown(lesson)


def test_every_exercise_fits_24_lines_before_anything_is_written(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    heights = {}
    for exercise in course():
        lesson.focus = exercise
        heights[exercise.name] = len(shown(lesson).splitlines())
    assert max(heights.values()) <= 24, heights


def test_the_keys_stay_within_the_course_and_a_hint_with_its_gradient(tmp_path: Path):
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    lesson.press("p")
    assert lesson.focus == course()[0]
    lesson.press("h"), lesson.press("h")
    assert len(lesson.hints) == 2
    path = tmp_path / "01_product.py"
    path.write_text(path.read_text() + "\n")
    lesson.save(path)
    assert len(lesson.hints) == 2, "still the same gradient"
    path.write_text(blank(find("1")).replace("da = ...", "da = b * dy"))
    lesson.save(path)
    assert lesson.attempt.next_gradient.name == "db"
    assert len(lesson.hints) == 0, "a hint for da is none for db"
    for _ in range(25):
        lesson.press("n")
    assert lesson.focus == course()[-1]


class Pupil:
    """Works as soon as a screen is shown, one step after the other, and notes what the screen says."""

    def __init__(self, folder: Path, steps: list[Callable[[], object]]):
        self.folder, self.steps, self.seen = folder, steps, []

    def wait(self, what: str) -> None:
        self.seen.append(what)

    def show(self, lesson: Lesson) -> None:
        self.seen.append((lesson.focus.name, lesson.progress.solved, lesson.attempt.problem))
        time.sleep(0.3)  # until the watcher listens
        self.steps.pop(0)()

    def leave(self, lesson: Lesson) -> None:
        self.seen.append("left")


def test_a_sitting_from_the_first_save_to_the_last_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours, theirs = os.pipe()
    product = tmp_path / "01_product.py"

    def in_two_saves() -> None:
        (tmp_path / "scratch.py").write_text("1 / 0")  # no exercise: nothing happens
        product.write_text(solved(find("1")))

    steps = [
        lambda: product.write_text("da = ("),
        in_two_saves,
        lambda: os.write(theirs, b"p\n"),
        lambda: os.write(theirs, b"q\n"),
    ]
    with os.fdopen(ours) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        pupil = Pupil(tmp_path, steps)
        progress = backhand.learn(tmp_path, screen=pupil)
    os.close(theirs)
    assert progress.solved == 1
    assert pupil.seen == [
        ("product", 0, ""),
        "judging 01_product.py",
        ("product", 0, "line 1: '(' was never closed: da = ("),
        "judging 01_product.py",
        ("used_twice", 1, ""),
        ("product", 1, ""),
        "left",
    ]


def test_a_save_is_noticed_and_so_is_a_file_that_is_taken_away(tmp_path: Path):
    write_course(tmp_path)
    with events(tmp_path) as happened:
        time.sleep(0.3)  # until the watcher listens
        path = tmp_path / "01_product.py"
        path.write_text(solved(find("1")))
        assert next(happened) == Saved(path)
        beside = tmp_path / "01_product.py~"
        beside.write_text(blank(find("1")))
        beside.replace(path)  # as many editors save
        assert next(happened) == Saved(path)
        path.unlink()
        assert next(happened) == Saved(path)


def test_keys_come_by_lines_where_there_is_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours, theirs = os.pipe()
    with os.fdopen(ours) as stdin, os.fdopen(theirs, "w") as learner:
        monkeypatch.setattr("sys.stdin", stdin)
        assert keys_need_enter()
        with events(tmp_path) as happened:
            learner.write("hint\nq\n")
            learner.flush()
            assert [next(happened), next(happened)] == [Pressed("h"), Pressed("q")]
    stream = io.StringIO()
    write_course(tmp_path)
    lesson = Lesson(judge_all(tmp_path, judge_file), judge_file)
    Screen(Console(file=stream, width=80), enter=True).show(lesson)
    assert stream.getvalue().rstrip().endswith("and Enter")


def test_keys_come_one_by_one_from_a_terminal_that_is_left_as_it_was(tmp_path: Path, monkeypatch):
    termios = pytest.importorskip("termios")
    learner, terminal = os.openpty()
    before = termios.tcgetattr(terminal)
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert not keys_need_enter()
        with events(tmp_path) as happened:
            os.write(learner, b"hl")
            assert [next(happened), next(happened)] == [Pressed("h"), Pressed("l")]
        assert termios.tcgetattr(terminal) == before
    os.close(learner)


@pytest.fixture(scope="module")
def referee() -> Iterator[Referee]:
    with Referee() as found:
        yield found


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("os.system('echo hello')", ""),
        ("os.abort()", "line 22: it ended Python itself (Aborted)"),
        ("os._exit(0)", "it ended Python itself"),
        ("exit()", "line 22: `exit()` raised"),
        ("input('name? ')", "line 22: `input('name? ')` raised EOFError"),
    ],
)
def test_whatever_a_file_does_the_next_one_is_judged(line, told, tmp_path: Path, referee: Referee):
    exercise = find("product")
    path = tmp_path / exercise.file_name
    path.write_text(
        changed(exercise, ("    da =", f"    {line}\n    da =")).replace("\nimport", "\nimport os,")
    )
    attempt = referee.judge(exercise, path)
    assert told in attempt.problem
    assert attempt.done == (not told)
    path.write_text(solved(exercise))
    assert referee.judge(exercise, path).done
    path.unlink()
    assert "01_product.py is not there" in referee.judge(exercise, path).problem


def test_a_loop_that_never_ends_is_stopped_and_told_by_its_line(tmp_path: Path):
    exercise = find("product")
    path = tmp_path / exercise.file_name
    path.write_text(changed(exercise, ("    da =", "    while True: pass\n    da =")))
    with Referee(limit=2) as referee:
        told = referee.judge(exercise, path).problem
        assert told.startswith("line 22: still running after 2 s, so it was stopped.")
        referee.limit = 60
        path.write_text(solved(exercise))
        assert referee.judge(exercise, path).done


def test_time_counts_only_while_a_file_is_judged(tmp_path: Path, referee: Referee):
    exercise = find("product")
    path = tmp_path / exercise.file_name
    path.write_text(solved(exercise))
    assert referee.judge(exercise, path).done
    referee.limit = 1.0
    try:
        assert referee.judge(exercise, path).done
        time.sleep(1.3)  # the learner thinks
    finally:
        referee.limit = LIMIT
    assert referee.judge(exercise, path).done


def test_a_file_that_prints_without_end_floods_neither_screen_nor_memory(tmp_path: Path, capfd):
    text = changed(
        find("product"), ("    da =", "    for i in range(99): print('x' * 1000)\n    print('end')\n    da =")
    )
    attempt = judged(tmp_path, find("product"), text)
    assert attempt.done
    assert sum(len(line) for line in attempt.printed) < 2000
    assert "end" not in attempt.printed  # only the beginning was kept
    assert capfd.readouterr() == ("", "")
