"""A process of its own judges: whatever a file does, the next one is judged."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attempting import changed
from backhand.learning.blanking import solved
from backhand.learning.course import find
from backhand.learning.referee import LIMIT, Referee


@pytest.fixture(scope="module")
def referee() -> Iterator[Referee]:
    with Referee() as found:
        yield found


@pytest.mark.seconds
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


@pytest.mark.seconds
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


@pytest.mark.seconds
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


STUBBORN = {
    "stops the process that watches it": "os.kill(os.getppid(), 19)",
    "forks, and waits for ever": "os.fork(); __import__('time').sleep(60)",
    "takes its own watch away": "__import__('faulthandler').cancel_dump_traceback_later()\n"
    "    while True: pass",
}


@pytest.mark.slow
@pytest.mark.parametrize("line", STUBBORN.values(), ids=STUBBORN)
def test_the_one_who_asks_has_a_limit_of_its_own(line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backhand.apart.STARTS", 20.0)
    monkeypatch.setattr("backhand.apart.LATER", 0.5)
    exercise = find("product")
    path = tmp_path / exercise.file_name
    with Referee(limit=1) as referee:
        path.write_text(solved(exercise))
        assert referee.judge(exercise, path).done  # torch is imported
        monkeypatch.setattr("backhand.apart.STARTS", 2.0)
        path.write_text(
            changed(exercise, ("    da =", f"    {line}\n    da =")).replace("\nimport", "\nimport os,")
        )
        begun = time.monotonic()
        attempt = referee.judge(exercise, path)
        assert time.monotonic() - begun < 10
        assert attempt.problem
        assert not attempt.done
        monkeypatch.setattr("backhand.apart.STARTS", 60.0)
        referee.limit = LIMIT
        path.write_text(solved(exercise))
        assert referee.judge(exercise, path).done


@pytest.mark.seconds
def test_what_one_file_does_to_its_process_is_not_there_for_the_next(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = find("product"), find("used_twice")
    patch = "import backhand.learning.attempts as judge\njudge._all_right = lambda gradients: True\n"
    away = "import os\nos.chdir('/')\n"
    Path(first.file_name).write_text(solved(first).replace("\nimport torch", f"\n{away}{patch}import torch"))
    Path(second.file_name).write_text(changed(second, ("dq = p * dy", "dq = dy")))
    with Referee() as referee:
        assert referee.judge(first, Path(first.file_name)).done
        assert not referee.judge(second, Path(second.file_name)).done
        Path(second.file_name).write_text(solved(second))
        assert referee.judge(second, Path(second.file_name)).done
