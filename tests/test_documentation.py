"""The site: every kind of mistake has an example that makes it, and the pages are built without a warning."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import markdown
import pytest

import backhand
from backhand.passes import layer_norm

ROOT = Path(__file__).parents[1]
EXTENSIONS = ["admonition", "pymdownx.highlight", "pymdownx.superfences"]


@pytest.fixture(scope="module")
def building() -> ModuleType:
    spec = importlib.util.spec_from_file_location("building", ROOT / "docs" / "building.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.seconds
@pytest.mark.parametrize("kind", backhand.KINDS)
def test_the_example_of_a_mistake_makes_that_mistake_and_no_other(kind: str) -> None:
    report = backhand.check_file(ROOT / "docs" / "mistakes" / f"{kind}.py")
    assert not report.ok
    assert kind in {
        mistake.kind for mistake in [*(row.mistake for row in report.culprits), *report.stress] if mistake
    }
    assert len({row.lines for row in report.culprits}) <= (2 if kind == "swapped" else 1)


@pytest.mark.parametrize("kind", ["missing_branch", "layout"])  # with a line at fault, and without
def test_a_mistake_is_shown_as_code_and_what_is_said_of_it(building: ModuleType, kind: str) -> None:
    page = markdown.markdown(building.section(kind), extensions=EXTENSIONS)
    assert page.count("<pre>") == 1
    assert page.count('class="hll"') == (1 if kind == "missing_branch" else 0)
    assert page.count('class="admonition failure"') == 1


def test_a_page_shows_the_backward_of_the_textbook(building: ModuleType) -> None:
    shown = building.on_page_markdown("<!-- backward of layer_norm -->")
    assert "dgain = (dy * xhat).reshape" in shown
    assert layer_norm.backward.__doc__ not in shown


def test_formulas_need_no_script(building: ModuleType) -> None:
    page = markdown.markdown(
        "A $x_i$.\n\n$$\\sum_i x_i < 1$$\n",
        extensions=["pymdownx.arithmatex"],
        extension_configs={"pymdownx.arithmatex": {"generic": True}},
    )
    content = building.on_page_content(page)
    assert re.findall(r'display="(\w+)"', content) == ["inline", "block"]
    assert "arithmatex" not in content


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "<math" in (tmp_path / "derivations" / "index.html").read_text(encoding="utf-8")
