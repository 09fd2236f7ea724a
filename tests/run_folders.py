"""What a run folder holds, to be compared with another one."""

from pathlib import Path

import numpy as np

FILES = ["history.csv", "loss.png", "model.safetensors", "run.json", "samples.txt"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def history(folder: Path) -> np.ndarray:
    return np.genfromtxt(folder / "history.csv", delimiter=",", skip_header=1, usecols=range(3), ndmin=2)
