"""Sampling new words from a trained model."""

from pathlib import Path

from .drawing import LECTURE_SEED, Sample
from .saving import Run


def sample(
    run: Run | str | Path,
    *,
    n: int = 20,
    seed: int = LECTURE_SEED,
    temperature: float = 1.0,
    top_k: int | None = None,
    prefix: str = "",
    new_only: bool = False,
) -> list[Sample]:
    """Draw words from a trained model: `Run.sample`, for a run or its folder.

    >>> import tempfile
    >>> from backhand import TrainConfig, train
    >>> folder = Path(tempfile.mkdtemp()) / "run"
    >>> run = train(TrainConfig(words="municipios", n_hidden=8, steps=20), out=folder)
    >>> [sample.word[:2] for sample in sample(run, n=3, prefix="vi", temperature=0.5)]
    ['vi', 'vi', 'vi']
    """
    run = run if isinstance(run, Run) else Run.load(run)
    return run.sample(n=n, seed=seed, temperature=temperature, top_k=top_k, prefix=prefix, new_only=new_only)
