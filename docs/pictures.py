"""Make the pictures of the README: the sheet in a browser, a live notebook, `backhand learn` on a terminal.

Needs JupyterLab, playwright and a Chromium; run from the project's folder:
`python docs/pictures.py docs/images /usr/bin/chromium`.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from playwright.sync_api import sync_playwright
from rich.console import Console

import backhand
from backhand.learning.attempts import judge_file
from backhand.learning.blanking import solved
from backhand.learning.course import course
from backhand.learning.folder import judge_all, write_course
from backhand.learning.lesson import Lesson
from backhand.rendering.classroom import Screen

EXAMPLE = re.compile(r"```python\n(.*?)print\(.*?```", re.DOTALL)


def sheet(folder: Path, images: Path, chromium: str) -> None:
    """Picture the sheet of the README's example."""
    found = EXAMPLE.search((Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8"))
    assert found is not None
    (folder / "softmax.py").write_text(f'{found[1]}\nout = "y"\n', encoding="utf-8")
    backhand.check_file(folder / "softmax.py").to_html(folder / "sheet.html")
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": 1000, "height": 640}, color_scheme=scheme, device_scale_factor=1.5
            )
            page.goto((folder / "sheet.html").as_uri())
            page.screenshot(path=images / f"sheet-{scheme}.png")
        browser.close()


PORT = 8765
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}


@contextlib.contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """Serve a folder with JupyterLab, without questions or news; yields its address."""
    settings = folder / "lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(NO_NEWS))
    options = [f"--port={PORT}", "--no-browser", "--allow-root", "--IdentityProvider.token="]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={folder}"]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(folder), "JUPYTER_DATA_DIR": str(folder)}
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        next(line for line in server.stderr if "is running at" in line)
        yield f"http://localhost:{PORT}"
    finally:
        server.terminate()
        server.communicate()


def notebook(folder: Path, images: Path, chromium: str) -> None:
    """Picture a cell with a mistake in the first live notebook, executed, in JupyterLab."""
    example = jupytext.read(Path(__file__).parents[1] / "examples" / "lecture_1_live.py")
    NotebookClient(example).execute()
    jupytext.write(example, folder / "lecture.ipynb")
    with jupyterlab(folder) as address, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1080, "height": 780})
        page.goto(f"{address}/doc/tree/lecture.ipynb")
        before = page.locator("p", has_text="Going on without that branch")
        before.wait_for(timeout=60_000)
        before.evaluate("e => e.scrollIntoView({block: 'center'})")
        page.wait_for_timeout(1000)
        page.screenshot(path=images / "notebook.png")
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
        notebook(Path(folder), images, chromium)
        terminal(Path(folder), images)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
