import json
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from backhand.benching import BenchReport, Errand, bench, timing
from backhand.benching.plotting import plot_bench
from backhand.engines import ENGINES, Running
from backhand.errors import ConfigError

QUICK = ("lecture's loop", "fused", "native")


@pytest.fixture(scope="module")
def report() -> BenchReport:
    return bench(sizes=[(3, 16)], batches=[16, 64], contenders=QUICK, rounds=2, seconds=0.01, errands=False)


def test_each_contender_is_timed_on_each_size_and_batch(report: BenchReport) -> None:
    assert [(t.name, t.batch_size) for t in report.timings] == [(n, b) for b in (16, 64) for n in QUICK]
    for t in report.timings:
        assert t.failure is None
        assert 0 < t.low <= t.microseconds <= t.high
        assert t.loss_error < timing.CLOSE_ENOUGH
        assert t.share_of_peak == pytest.approx(
            6 * t.batch_size * (3 * 3 + 27) * 16 / t.microseconds / 1e3 / report.peak_gflops
        )
    assert [t.ratio for t in report.timings if t.name == "lecture's loop"] == [1, 1]


def uphill(
    parameters: dict[str, Tensor],
    Xs: Tensor,
    Ys: Tensor,
    rates: Sequence[float],
    running: Running | None = None,
) -> Tensor:
    return ENGINES["fused"](parameters, Xs, Ys, [-rate for rate in rates], running)


def test_a_contender_that_trains_wrongly_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Tensor:
        raise ImportError("No module named 'jax'")

    monkeypatch.setattr(timing, "CONTENDERS", {**timing.CONTENDERS, "uphill": uphill, "missing": missing})
    found = bench(
        sizes=[(3, 16)], batches=[16], contenders=["uphill", "missing"], rounds=1, seconds=0.01, errands=False
    )
    _, wrong, absent = found.timings
    assert wrong.failure is not None
    assert "not the same training" in wrong.failure
    assert math.isnan(wrong.microseconds)
    assert absent.failure == "ImportError: No module named 'jax'"


def test_a_report_becomes_json_and_a_picture(report: BenchReport) -> None:
    failed = replace(report.timings[-1], microseconds=math.nan, failure="not installed")
    whole = replace(report, timings=(*report.timings, failed), errands=(Errand("start", 0.1, 0.1, 0.2),))
    written = json.loads(json.dumps(whole.to_dict(), allow_nan=False))
    assert written["timings"][0]["name"] == "lecture's loop"
    assert written["timings"][-1]["microseconds"] is None
    assert written["machine"]["torch"] == torch.__version__
    assert plot_bench(whole).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"contenders": ["steam"]}, "no contender 'steam'; choose from"), ({"rounds": 0}, "--rounds is 0")],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench(**options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile uses what PyTorch has deprecated
@pytest.mark.parametrize("name", ["torch.compile", "JAX jit + scan"])
def test_the_peers_train_as_the_engines_do(name: str) -> None:
    if name.startswith("JAX"):
        pytest.importorskip("jax")
    found = bench(
        sizes=[(3, 16)], batches=[16], contenders=[name], rounds=1, seconds=0.01, errands=False
    ).timings[1]
    assert found.failure is None
    assert found.loss_error < timing.CLOSE_ENOUGH
