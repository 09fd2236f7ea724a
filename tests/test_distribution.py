"""The wheel and the sdist install outside the repository, and the sdist's tests pass on the wheel."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]
BUILD = "import sys, hatchling.build as b; b.build_wheel(sys.argv[1]); b.build_sdist(sys.argv[1])"
# What a package can lack: data, templates, the command, the pytest plugin, the files that tests read.
TESTS = (
    *("test_words.py", "test_rendering_html.py", "test_learning_folder.py", "test_checking_pytest_plugin.py"),
    *("test_passes.py", "test_licences.py", "test_notebooks.py", "test_documentation.py"),
)


def python(*arguments: str, cwd: Path, site: Path | None = None) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if site is not None:
        environment["PYTHONPATH"] = str(site)
    result = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_tests_of_the_sdist_pass_on_the_wheel_outside_the_repository(tmp_path: Path) -> None:
    site, outside = tmp_path / "site", tmp_path / "outside"
    python("-c", BUILD, str(tmp_path), cwd=ROOT)
    (wheel,), (archive,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    python(
        *("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel)),
        cwd=tmp_path,
    )
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (tmp_path / archive.name.removesuffix(".tar.gz")).rename(outside)
    where = python("-c", "import backhand; print(backhand.__file__)", cwd=outside, site=site)
    assert Path(where.strip()).is_relative_to(site)
    files = [f"tests/{name}" for name in TESTS]
    told = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *files, cwd=outside, site=site)
    assert " passed" in told
    assert "backhand 0." in python("-m", "backhand", "--version", cwd=outside, site=site)
