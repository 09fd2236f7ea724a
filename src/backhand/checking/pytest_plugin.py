"""The pytest fixture `check_pass`: a failing check shows the table as the assertion's message."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def check_pass() -> Callable[..., Any]:
    """Check a pass, as `backhand.check` does, and fail with the table unless every gradient is right."""

    def run(*args: Any, **options: Any) -> Any:
        from backhand.checking.judging import check

        report = check(*args, **options)
        if not report.ok:
            pytest.fail(str(report), pytrace=False)
        return report

    return run
