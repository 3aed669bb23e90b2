"""Trained members of the zoo: the best networks of the studies, which come with the package.

`kanzoo.load("zoo:NAME")` gives the network of one of `names()`; `card(NAME)` says what it was
trained on and how, and what it scores. Beside each stands `NAME.md`, the same for people.
"""

import fnmatch
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from kanzoo.checks import nearest_name

PREFIX = "zoo:"
INDEX = "members.json"
SUFFIX = ".safetensors"
MAX_BYTES = 20_000_000  # of all networks together
RELEASE = Path("docs", "studies", "release")  # in a checkout


@cache
def folder() -> Path:
    """Where the members lie: inside an installed package, else beside it."""
    package = Path(__file__).resolve().parent
    for found in (package / "release", package.parent / RELEASE):
        if (found / INDEX).is_file():
            return found
    raise ValueError(f"this installation of kanzoo has no trained members: no {INDEX}")


@cache
def members() -> dict[str, dict[str, Any]]:
    """What is known of every member, by name."""
    cards: dict[str, dict[str, Any]] = json.loads((folder() / INDEX).read_text(encoding="utf-8"))
    return cards


def names(pattern: str = "*") -> list[str]:
    """Sorted names of members, such as `digits-vit-kan-bspline`: data, architecture, arm.

    `pattern` is one of file names: `names("digits-*-kan-*")`.
    """
    return sorted(fnmatch.filter(members(), pattern))


def card(name: str) -> dict[str, Any]:
    """What a member was trained on and how, its sizes and scores, and the licence of its data.

    Raises `ValueError` that names the nearest member for one that is unknown. The name may begin
    with `zoo:`.
    """
    name = name.removeprefix(PREFIX)
    if name not in members():
        near = nearest_name(name, members())
        hint = f"did you mean {near!r}? " if near else ""
        raise ValueError(
            f"unknown member {name!r}: {hint}kanzoo.zoo.names() lists all {len(members())}"
        )
    return members()[name]


def path(name: str) -> Path:
    """The file of a member's weights; `ValueError` if it is not the one that was released."""
    digest = card(name)["sha256"]
    file = folder() / f"{name.removeprefix(PREFIX)}{SUFFIX}"
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        raise ValueError(f"{file} is missing or damaged: install kanzoo again")
    return file
