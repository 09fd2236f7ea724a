"""The sheet: self-contained, escaped, small; in a browser it shows the culprit, the flow and the details."""

import html
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import backhand
from altered import altered, from_text
from backhand.checking.sheet import pooled
from backhand.errors import CheckError
from backhand.passes import mlp_chunked, rnn
from backhand.rendering.entries import entries_of
from backhand.rendering.heatmaps import heat_map
from backhand.rendering.html import as_fragment
from browsing import browser
from student_notebook import number, write_notebook

EVIL = '</script><script>document.title = 1</script><img src=x onerror="document.title = 1">'


def forgotten_branch() -> backhand.Report:
    return backhand.check(altered(mlp_chunked, ("    dcounts += dcounts_sum", "    pass")))


def test_the_sheet_of_26_gradients_is_one_small_file(tmp_path: Path):
    report = forgotten_branch()
    text = report.to_html(tmp_path / "sheet.html")
    assert (tmp_path / "sheet.html").read_text() == text
    assert len(text) < 1_000_000
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)


def test_every_row_has_its_verdict_as_a_word_and_its_code():
    report = forgotten_branch()
    text = html.unescape(report.to_html())
    for row in report.rows:
        assert f'{row.gradient}: </span><span class="pill">{row.verdict}</span>' in text
        for line in row.lines:
            assert line.text in text
    assert "missing: what comes back through counts_sum" in text
    assert report["counts"].mistake.message in text
    assert report["counts"].mistake.hint in text
    assert report.explain("counts") in text


def test_only_the_forgotten_branch_is_a_missing_arc():
    text = forgotten_branch().to_html()
    assert set(re.findall(r'class="\w+ missing" style="[^"]*" data-arc="([^"]+)"', text)) == {
        "counts counts_sum"
    }
    right = backhand.check(mlp_chunked).to_html()
    assert 'missing" style' not in right
    assert 'follows" style' not in right


def test_code_and_names_cannot_become_markup(tmp_path: Path):
    module = from_text(
        f"def forward(x):\n    '''{EVIL}'''\n    y = x * 2  # {EVIL}\n    loss = y.sum()\n"
        "    return {'<u>y</u>': y, 'loss': loss}\n"
        f"def backward(x):\n    dx = {{'{EVIL[:9]}': 2 + 0 * x}}['</script>']  # {EVIL}\n"
        "    return {'dx': dx, 'd<u>y</u>': 3 * dx, 'd<u>z</u>': dx}\n"
    )
    report = backhand.check(module.forward, module.backward, inputs={"x": torch.randn(3)})
    assert {row.name for row in report.rows} == {"x", "<u>y</u>"}
    for text in (report.to_html(), report._repr_html_(), as_fragment(report)):
        assert "u&gt;y" in text or "u&amp;gt;y" in text
        for markup in ("<script", "<img src=x", "<u>", "</u>"):
            assert markup not in text


def test_a_report_without_source_or_pictures_still_has_its_rows():
    report = backhand.check_function(torch.exp, lambda x: x.exp(), {"x": torch.randn(3)})
    assert "dx: " in replace(report, sheet=None).to_html()


def test_a_custom_functions_gradients_are_drawn_beside_the_references():
    report = backhand.check_function(torch.exp, lambda x: x.exp(), {"x": torch.randn(3)})
    picture = report.sheet.pictures["x"]
    assert picture.hand == picture.autograd is not None
    assert "data:image/png" in report.to_html()


def test_several_tensors_of_one_line_have_a_row_each():
    text = backhand.check(rnn).to_html()
    for t in range(4):
        assert f"hs[{t}]" in text


def test_in_a_notebook_the_page_around_it_says_whether_it_is_day_or_night():
    text = forgotten_branch()._repr_html_()
    assert "prefers-color-scheme" not in text
    assert "--page: transparent" in text
    first, second = (re.findall(r'<li id="([^"]+)"', forgotten_branch()._repr_html_()) for _ in range(2))
    assert len(set(first + second)) == len(first + second), "two sheets on one page have places of their own"


# What the pages of notebooks ask of everything in them: Classic Notebook's letters and margins.
OF_NOTEBOOKS = "html { font-size: 10px } summary { display: block } .output * + img { margin-top: 1em }"


@pytest.mark.slow
def test_a_page_with_rules_of_its_own_leaves_the_sheet_its_letters_and_its_places(tmp_path: Path):
    report = forgotten_branch()
    page_of = "<!doctype html><style>{}</style><div class=output>{}{}</div>"
    with browser() as chromium:
        seen = []
        for rules in ("", OF_NOTEBOOKS):
            text = page_of.format(rules, report._repr_html_(), as_fragment(report))
            (tmp_path / "page.html").write_text(text)
            page = chromium.new_page(viewport={"width": 800, "height": 900})
            page.goto((tmp_path / "page.html").as_uri())
            sizes = page.locator(".pill, .shape-of, .legend, h1").evaluate_all(
                "its => its.map(e => getComputedStyle(e).fontSize)"
            )
            tops = (
                page.locator("li.wrong .maps")
                .first.locator("img")
                .evaluate_all("its => its.map(e => e.getBoundingClientRect().top)")
            )
            assert len(set(tops)) == 1
            told = page.get_by_text("what the words and numbers mean")
            assert told.evaluate("e => getComputedStyle(e).display") == "list-item"  # it has its triangle
            seen.append(sizes)
        assert seen[0] == seen[1]


def test_the_sheet_opens_on_its_culprits_each_linked_to_its_line():
    report = backhand.check(
        altered(mlp_chunked, ("    dcounts += dcounts_sum", "    pass"), ("dhpreact = ", "dhpreact = -"))
    )
    text = html.unescape(report.to_html())
    assert "<title>wrong: dcounts, dhpreact · " in text
    opening, rows = text.split('<ol class="rows"')
    for row in report.culprits:
        place, name = re.search(rf'href="#(at-\d+)">({row.gradient})<', opening).groups()
        assert row.mistake.message in opening
        assert row.lines[0].text in opening
        entry = rows.split(f'<li id="{place}" class="entry {row.verdict}">')[1].split("</li>")[0]
        assert f"{name}: </span>" in entry


def test_of_a_notebook_the_sheet_says_in_which_cell_a_culprit_stands(tmp_path: Path):
    wrong = "logits", "dh = dlogits @ W2.T", "dh = dlogits * W2.T"
    path = write_notebook(tmp_path / "n.ipynb", wrong, until="logits")
    report = backhand.check_file(path, draws=1)
    opening = html.unescape(report.to_html()).split('<ol class="rows"')[0]
    cell = report["h"].cell
    assert cell in opening.split("dh = dlogits * W2.T")[0]
    assert re.search(rf"The backward raised .* on line \d+ of {cell}: ", opening)


def test_a_title_cannot_become_markup():
    report = replace(forgotten_branch(), title=EVIL)
    for text in (report.to_html(), report._repr_html_(), as_fragment(report)):
        assert "<img src=x" not in text
        assert "<script" not in text


def test_what_follows_a_cell_has_culprits_and_what_is_missing_in_words_and_every_verdict_as_a_word():
    report = forgotten_branch()
    text = html.unescape(as_fragment(report))
    for row in report.rows:
        assert re.search(rf">{row.gradient}</th><td[^>]*>\s*<span[^>]*>{row.verdict}</span>", text), row
    mistake = report["counts"].mistake
    assert mistake.message in text
    assert mistake.hint in text
    assert "follows: its own line is right" in text
    missing = replace(report["h"], verdict="todo", note="so far: one branch is missing")
    text = as_fragment(replace(report, rows=(missing,)))
    assert "so far: one branch is missing" in text
    assert "nothing wrong so far" in text


def test_a_path_that_cannot_be_written_is_told(tmp_path: Path):
    with pytest.raises(CheckError, match="cannot be written"):
        forgotten_branch().to_html(tmp_path / "nowhere" / "sheet.html")


def test_data_for_programs_leaves_the_pictures_out():
    assert "sheet" not in forgotten_branch().to_dict()


def test_pooling_keeps_one_large_element_among_many_small_ones():
    tensor = torch.full((300, 5, 200), 0.01)
    tensor[123, 2, 77] = -3.0
    picture = pooled(tensor)
    assert picture is not None
    assert (len(picture), len(picture[0])) == (10, 18)
    assert min(min(row) for row in picture) == -3.0


def test_a_heat_map_survives_values_that_are_not_finite():
    assert heat_map(((float("nan"), float("inf")), (0.0, 1.0)), 1.0).startswith("data:image/png;base64,")


def test_the_turns_of_a_loop_are_one_line_that_shows_the_worst():
    wrong = altered(rnn, ("dhs[t] += dys[t] @ Why.T", "dhs[t] = dys[t] @ Why.T"))
    report = backhand.check(wrong)
    turns = [row for row in report.rows if row.name.startswith("hs[")]
    assert len(turns) == 4
    (worst,) = [row for row in turns if row in report.culprits]
    (entry,) = [e for e in entries_of(report)[0] if e.name.startswith("hs[")]
    assert entry.name == worst.name
    assert {t.name for t in entry.turns} == {row.name for row in turns if row != worst}
    assert entry.lines, "the head of the loop and its lines stand beside it"
    text = html.unescape(report.to_html())
    for row in turns:
        assert row.gradient in text
    assert f"{worst.gradient} and 3 more, one a turn" in text


TURNS = """
def forward(x, w):
    ys = []
    for k in range(3):
        ys.append((k + 1) * x * w)
    loss = sum(y.sin().sum() for y in ys)
    return {"ys": ys, "loss": loss}

def backward(x, w, ys):
    dys = [y.cos() for y in ys]
    dx = sum((k + 1) * w * dy for k, dy in enumerate(dys))
    dw = x * dys[0] + 3 * x * dys[2]
    return locals()
"""


def test_a_loop_stands_at_the_line_that_fills_its_list_and_an_arc_to_one_of_its_turns_can_be_missing():
    module = from_text(TURNS)
    inputs = {"x": torch.randn(4, 3), "w": torch.randn(4, 3)}
    report = backhand.check(module.forward, module.backward, inputs=inputs)
    assert report["w"].mistake.detail["branches"] == ["ys[1]"]
    entries = entries_of(report)[0]
    assert [e.code.text for e in entries if e.name.startswith("ys[")] == ["ys.append((k + 1) * x * w)"]
    arcs = {(s.arc.source, s.arc.state) for entry in entries for s in entry.flow}
    assert ("w", "missing") in arcs


@pytest.mark.slow
def test_on_paper_a_culprit_is_open_and_the_others_are_closed(tmp_path: Path):
    forgotten_branch().to_html(tmp_path / "sheet.html")
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 700, "height": 900}, color_scheme="dark")
        page.goto((tmp_path / "sheet.html").as_uri())
        hint = page.locator("li.wrong .more").get_by_text("receives the sum")
        other = page.locator("li.follows .more p").first

        def height(place) -> float:
            return place.evaluate("e => e.checkVisibility() ? e.getBoundingClientRect().height : 0")

        assert height(hint) == 0
        page.emulate_media(media="print")
        assert height(hint) > 0
        assert height(other) == 0
        assert page.locator("li.wrong .more summary").count() == 1
        assert height(page.locator("li.wrong .more summary")) == 0  # the rule gives it away
        ground = page.locator(".backhand").evaluate("e => getComputedStyle(e).backgroundColor")
        assert ground == "rgb(255, 255, 255)"
        assert page.evaluate("document.documentElement.scrollWidth") <= 700
        forward, backward = (
            page.locator(f"li.wrong .{side}").bounding_box() for side in ("forward", "backward")
        )
        assert backward["y"] == forward["y"]  # beside each other


def of_many_steps() -> str:
    def inputs(generator: torch.Generator) -> dict[str, torch.Tensor]:
        values = rnn.inputs(generator)
        return {**values, "x": torch.randn(40, 3, 2, generator=generator)}

    return backhand.check(rnn.forward, rnn.backward, inputs=inputs, out="ys", draws=1).to_html()


def test_the_sheet_of_many_steps_is_small():
    assert len(of_many_steps()) < 2_000_000


@pytest.mark.slow
@pytest.mark.parametrize(("width", "most"), [(1400, 160), (390, 65)])
def test_many_arcs_share_a_narrow_gutter_and_leave_the_code_its_place(tmp_path, width, most):
    (tmp_path / "sheet.html").write_text(of_many_steps())
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": width, "height": 900})
        page.goto((tmp_path / "sheet.html").as_uri())
        lefts = page.locator(".gutter i").evaluate_all("its => its.map(e => e.getBoundingClientRect().left)")
        assert len(lefts) > 10
        assert all(0 <= left <= most + 20 for left in lefts)
        assert page.locator(".gutter").first.bounding_box()["width"] <= most


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_culprit_and_details_without_scrolling_sideways(tmp_path, width, scheme):
    forgotten_branch().to_html(tmp_path / "sheet.html")
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        requests = []
        page.on("request", lambda r: requests.append(r.url))
        page.goto((tmp_path / "sheet.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert all(url.startswith(("file:", "data:")) for url in requests)
        culprit = page.locator("li.wrong")
        assert culprit.count() == 1
        assert culprit.locator(".ghost").inner_text() == "missing: what comes back through counts_sum"
        summary = culprit.locator("summary").first
        summary.focus()
        page.keyboard.press("Enter")
        assert culprit.get_by_text("receives the sum").is_visible()
        assert not culprit.locator(".more pre").is_visible()
        culprit.locator(".more summary").click()
        assert culprit.locator(".more pre").is_visible()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_have_the_contrast_that_readers_need(tmp_path, scheme):
    forgotten_branch().to_html(tmp_path / "sheet.html")
    measure = """() => {
      const canvas = document.createElement('canvas');
      const probe = canvas.getContext('2d', {willReadFrequently: true});
      const rgb = c => {
        probe.clearRect(0, 0, 1, 1); probe.fillStyle = c; probe.fillRect(0, 0, 1, 1);
        return [...probe.getImageData(0, 0, 1, 1).data]; };
      const light = c => { const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(
        v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b; };
      const ground = e => { for (; e; e = e.parentElement) {
        const c = rgb(getComputedStyle(e).backgroundColor);
        if (c[3] === 255) return c; } return [255, 255, 255]; };
      const chosen = '.pill, .ghost, .fault b, .number, .shape-of, .legend, h1';
      return [...document.querySelectorAll(chosen)].map(e => {
        const a = light(rgb(getComputedStyle(e).color)), b = light(ground(e));
        return [e.className, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)]; });
    }"""
    with browser() as chromium:
        page = chromium.new_page(color_scheme=scheme)
        page.goto((tmp_path / "sheet.html").as_uri())
        poor = [found for found in page.evaluate(measure) if found[1] < 4.5]
        assert not poor


def test_a_report_that_was_pickled_draws_the_same_sheet() -> None:
    report = forgotten_branch()
    pickled = pickle.dumps(report)
    assert b"_rebuild_tensor" not in pickled
    copy = pickle.loads(pickled)
    assert copy.to_html() == report.to_html()
    assert copy == report


@pytest.mark.parametrize(
    ("cell", "old", "new"),
    [
        ("logits", "dlogits = dnorm_logits.clone()", "dlogits = -dnorm_logits.clone()"),
        ("fused loss", "dlogits /= n", "dlogits /= 2 * n"),
    ],
)
def test_of_a_tensor_with_two_gradients_the_wrong_one_is_drawn(
    cell: str, old: str, new: str, tmp_path: Path
) -> None:
    report = backhand.check_file(write_notebook(tmp_path / "n.ipynb", (cell, old, new)), draws=1)
    assert [(row.name, row.cell) for row in report.culprits] == [("logits", number(cell))]
    text = html.unescape(report.to_html())
    assert 'dlogits: </span><span class="pill">wrong</span>' in text
    assert 'dlogits: </span><span class="pill">right</span>' not in text
    assert report.sheet.pictures["logits"].numbers.differing > 60


def test_of_a_tensor_with_two_right_gradients_the_last_is_drawn(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb")
    first = backhand.check_file(path, draws=1, stop_after=8).sheet.pictures["logits"].hand
    both = backhand.check_file(path, draws=1)
    assert both.sheet.pictures["logits"].hand != first
