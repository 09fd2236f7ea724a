"""What is installed with the package has a permissive licence, and stands in docs/licences.md."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PERMISSIVE = {
    *(
        "MIT",
        "MIT License",
        "MIT-CMU",
        "ISC License (ISCL)",
        "BSD License",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "0BSD",
    ),
    *(
        "Apache-2.0",
        "Apache Software License",
        "Apache-2.0 WITH LLVM-exception",
        "BSL-1.0",
        "Zlib",
        "CC0-1.0",
    ),
    *("PSF-2.0", "Python Software Foundation License", "CNRI-Python"),
}

NVIDIAS = ("nvidia-", "cuda-")
"""NVIDIA's own libraries, which come with PyTorch for its GPUs; the page says so."""


def key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(metadata) -> str:
    classified = (
        c.split(" :: ")[-1] for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")
    )
    return metadata.get("License-Expression") or " AND ".join(classified) or metadata.get("License") or "none"


def installed() -> dict[str, str]:
    """The packages that the package needs, and those that these need: name to licence."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(text).name for text in project["dependencies"]]
    found: dict[str, str] = {}
    while waiting:
        name = key(waiting.pop())
        if name in found or name.startswith(NVIDIAS):
            continue
        try:
            there = distribution(name)
        except PackageNotFoundError:  # for another system
            continue
        found[name] = licence(there.metadata)
        for text in there.requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    return found


def test_every_licence_is_permissive() -> None:
    found = installed()
    assert len(found) > 20
    for name, text in found.items():
        assert set(re.split(r" (?:AND|OR) ", text)) <= PERMISSIVE, (name, text)


def test_a_copyleft_licence_would_be_noticed() -> None:
    assert not set(re.split(r" (?:AND|OR) ", "MIT AND GPL-2.0-or-later")) <= PERMISSIVE


def test_the_pinned_versions_leave_to_pytorch_what_its_builds_bring() -> None:
    """Its build for GPUs is to be had with one version of Triton, and of NVIDIA's libraries, alone."""
    pinned = [line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()]
    assert "torch" in pinned
    assert not [name for name in pinned if key(name) == "triton" or key(name).startswith(NVIDIAS)]


def test_the_page_lists_what_is_installed() -> None:
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = {key(name) for name in re.findall(r"^\| ([\w.-]+) \|", page, re.MULTILINE)}
    assert installed().keys() <= listed
