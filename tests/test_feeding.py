"""Whatever bytes a list of words holds: one line or a right run, in bounded memory, harmless to show."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

FEEDING = Path(__file__).with_name("feeding.py")


@pytest.mark.slow
def test_any_bytes_are_told_in_one_line_or_give_a_right_run(tmp_path: Path) -> None:
    command = [sys.executable, str(FEEDING), str(tmp_path), "500", str(random.randrange(1 << 30))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(files) == 500
    assert [file for file in files if file["wrong"]] == []
    assert sum(file["status"] == 0 for file in files) > 100  # neither are most refused
