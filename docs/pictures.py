"""Make the pictures of the README: the sheet in a browser, and `backhand learn` on a terminal.

Needs playwright and a Chromium; run from the project's folder:
`python docs/pictures.py docs/images /usr/bin/chromium`.
"""

import contextlib
import inspect
import io
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from playwright.sync_api import sync_playwright
from rich.console import Console

import backhand
from backhand.learning.attempts import judge_file
from backhand.learning.blanking import solved
from backhand.learning.course import course
from backhand.learning.folder import judge_all, write_course
from backhand.learning.lesson import Lesson
from backhand.passes import mlp_chunked
from backhand.rendering.classroom import Screen


def forgotten_branch(folder: Path) -> ModuleType:
    """Write the lecture's pass without one of its lines, and import it."""
    text = inspect.getsource(mlp_chunked).replace("    dcounts += dcounts_sum  # second branch", "    #")
    (folder / "lecture.py").write_text(text)
    sys.path.insert(0, str(folder))
    import lecture  # pyright: ignore[reportMissingImports]

    return lecture


def sheet(folder: Path, images: Path, chromium: str) -> None:
    """Picture the sheet of the lecture's pass with a forgotten branch."""
    backhand.check(forgotten_branch(folder)).to_html(folder / "sheet.html")
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1240, "height": 760}, color_scheme=scheme)
            page.goto((folder / "sheet.html").as_uri())
            page.evaluate("document.querySelector('li.wrong').scrollIntoView({block: 'center'})")
            page.screenshot(path=images / f"sheet-{scheme}.png")
        browser.close()


def terminal(folder: Path, images: Path) -> None:
    """Picture a save with a mistake in the second exercise, with the first hint."""
    first, second = course()[:2]
    with contextlib.chdir(folder):
        learn = Path("learn")
        write_course(learn)
        (learn / first.file_name).write_text(solved(first))
        mistaken = solved(second).replace("dp = q * dy + dq", "dp = q * dy")
        (learn / second.file_name).write_text(mistaken)
        lesson = Lesson(judge_all(learn, judge_file), judge_file)
    lesson.press("h")
    console = Console(width=80, record=True, highlight=False, force_terminal=True, file=io.StringIO())
    Screen(console).show(lesson)
    (images / "learn.svg").write_text(console.export_svg(title="backhand learn"))


def main(images: Path, chromium: str) -> None:
    """Make all pictures."""
    images.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        sheet(Path(folder), images, chromium)
        terminal(Path(folder), images)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
