"""The report as data: what it looks up, that it can be hashed and pickled, that it knows no renderer."""

import json
import math
import pickle
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch

import backhand
from backhand.checking.meanings import KINDS, VERDICTS
from backhand.checking.report import Mistake, Report, Row

DOCS = (Path(__file__).parents[1] / "docs" / "checking.md").read_text()


def mistake(**detail: object) -> Mistake:
    return Mistake("missing_branch", "what", "hint", detail)


def row(name: str, verdict: str, **more: object) -> Row:
    return Row(name, f"d{name}", verdict, (3,), **more)


def test_a_mistake_can_be_hashed_whatever_its_detail_holds():
    one, same, other = mistake(branches=["h"]), mistake(branches=["h"]), mistake(branches=["x"], axis=1)
    assert hash(one) == hash(same)
    assert {one, same, other} == {one, other}


def test_the_detail_of_a_mistake_reads_as_a_dictionary_and_is_not_changed():
    given = {"branches": ["h"], "factor": 2.0}
    told = mistake(**given).detail
    assert told == given
    assert {**told} == given
    assert json.loads(json.dumps(told)) == given
    with pytest.raises(TypeError, match="not to be changed"):
        told["factor"] = 3.0
    with pytest.raises(TypeError, match="not to be changed"):
        told |= {"factor": 3.0}
    for change in (told.clear, told.popitem, lambda: told.pop("factor"), lambda: told.update(factor=1)):
        with pytest.raises(TypeError, match="not to be changed"):
            change()
    copy = dict(told)
    copy["factor"] = 3.0
    assert told == given


def test_a_mistake_keeps_the_detail_that_it_was_made_with():
    given = {"factor": 2.0}
    told = mistake(**given)
    kept = Mistake("scale", "", "", given)
    given["factor"] = 3.0
    assert told.detail == kept.detail == {"factor": 2.0}


def test_a_report_survives_being_pickled():
    report = Report("t", (row("x", "wrong", mistake=mistake(branches=["h"])),), stress=(mistake(axis=0),))
    again = pickle.loads(pickle.dumps(report))
    assert again == report
    with pytest.raises(TypeError):
        again["x"].mistake.detail["axis"] = 1
    with pytest.raises(FrozenInstanceError):
        again.title = "u"


def test_of_several_rows_under_a_name_the_culprit_counts_then_the_last():
    first, last = row("x", "right", cell="cell 1"), row("x", "follows", cell="cell 3")
    culprit = row("x", "shape", cell="cell 2")
    assert Report("t", (first, culprit, last))["x"] is culprit
    assert Report("t", (first, last))["dx"] is last
    with pytest.raises(KeyError):
        Report("t", (first,))["y"]


def test_what_json_cannot_hold_is_none_wherever_it_stands():
    bad = mistake(factor=math.inf, where={"worst": [math.nan, -math.inf]})
    rows = (row("x", "wrong", maxdiff=math.inf, multiple=math.nan, mistake=bad),)
    data = Report("t", rows, stress=(bad,)).to_dict()
    text = json.dumps(data, allow_nan=False)  # raises for a single one
    assert "Infinity" not in text
    assert data["rows"][0]["maxdiff"] is None
    assert data["rows"][0]["mistake"]["detail"] == {"factor": None, "where": {"worst": [None, None]}}


def test_an_infinite_gradient_gives_data_that_json_can_hold():
    def forward(x):
        y = 1 / x
        return locals()

    def backward(dy, x):
        dx = -dy / (x - x)
        return locals()

    report = backhand.check(forward, backward, inputs={"x": torch.rand(4) + 1}, out="y")
    assert not report.ok
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("verdict", "ok"), [(v, v not in ("wrong", "shape", "todo")) for v in VERDICTS])
def test_a_report_is_ok_without_what_is_wrong_misshapen_or_missing(verdict: str, ok: bool):
    report = Report("t", (row("x", verdict),))
    assert report.ok is ok
    assert [r.name for r in report.culprits] == (["x"] if verdict in ("wrong", "shape") else [])


def test_a_failed_check_or_an_exception_is_not_ok():
    report = Report("t", (row("x", "right"),))
    assert report.ok
    assert not replace(report, stress=(mistake(),)).ok
    assert not replace(report, raised=backhand.checking.report.Raised("ValueError", None)).ok


def test_a_sheet_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path, monkeypatch):
    report, path = Report("t", (row("x", "right"),)), tmp_path / "sheet.html"
    path.write_text("the old one")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backhand.writing.os.fsync", full)
    with pytest.raises(backhand.CheckError, match=r"sheet\.html cannot be written: No space left"):
        report.to_html(path)
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.seconds
def test_a_report_needs_neither_torch_nor_a_renderer_to_be_made():
    code = (
        "import sys, backhand.checking.report as r\n"
        "report = r.Report('t', (r.Row('x', 'dx', 'right', (3,)),))\n"
        "print(report.ok, sorted({'torch', 'rich', 'jinja2'} & set(sys.modules)))\n"
        "print(str(report).splitlines()[0], 'rich' in sys.modules)\n"
        "print(report.to_html()[:15], report._repr_html_()[:7])\n"
        "print(report.explain('x'))\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [
        "True []",
        "t: right. 1 gradient agrees with autograd. True",
        "<!doctype html> <style>",
        "dx: no source line of the forward is known that uses x.",
    ]


def test_the_headline_counts_what_was_compared_alone():
    report = Report("t", (row("x", "right"), row("h", "skipped"), row("b", "vacuous")))
    assert str(report).startswith("t: right. 1 gradient agrees with autograd, 1 vacuous.")


def test_the_list_of_verdicts_in_the_documentation_is_the_table():
    listed = re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", DOCS, re.MULTILINE)
    assert listed == [(word, verdict.meaning) for word, verdict in VERDICTS.items()]


def test_the_list_of_mistakes_in_the_documentation_is_the_table():
    listed = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]*)\|$", DOCS, re.MULTILINE)
    expected = [(word, k.meaning, ", ".join(f"`{d}`" for d in k.detail)) for word, k in KINDS.items()]
    assert [(word, meaning, detail.strip()) for word, meaning, detail in listed] == expected


def test_every_kind_has_a_hint_that_is_a_sentence():
    assert all(kind.hint.endswith((".", "?")) for kind in KINDS.values())


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_verdict_can_be_read_by_day_and_by_night(verdict: str):
    for ink, ground in (VERDICTS[verdict].by_day, VERDICTS[verdict].by_night):
        light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
