"""A live namespace: judged by the graph that is alive in it."""

import pytest
import torch

import backhand
from backhand.errors import CheckError
from lecture_cells import FIRST, FORWARD, SECOND, SETUP


def test_a_live_namespace_is_judged_by_its_graph() -> None:
    names: dict = {}
    exec(
        SETUP + FORWARD.replace("loss.backward()", "loss.backward(retain_graph=True)") + FIRST + SECOND, names
    )
    report = backhand.check_namespace(names)
    assert report.ok, str(report)
    names["dlogits"] = -names["dlogits"]
    report = backhand.check_namespace(names)
    assert "logits" in {row.name for row in report.culprits}
    assert report["logits"].mistake.kind == "sign"


def test_the_sheet_of_a_live_namespace_shows_what_was_judged_then() -> None:
    names: dict = {}
    exec(
        SETUP + FORWARD.replace("loss.backward()", "loss.backward(retain_graph=True)") + FIRST + SECOND, names
    )
    report = backhand.check_namespace(names)
    names["dlogits"] *= 0
    hand = report.sheet.pictures["logits"].hand
    assert any(value for row in hand for value in row)


def test_a_namespace_without_a_graph_is_refused() -> None:
    names: dict = {}
    exec(SETUP + FORWARD + FIRST, names)
    with pytest.raises(CheckError, match="retain_graph=True"):
        backhand.check_namespace(names)
    with pytest.raises(CheckError, match="expected a scalar"):
        backhand.check_namespace({"loss": torch.ones(3)})
