"""`study.yaml`: what a study's folder was made by, so that no other study goes on in it."""

from pathlib import Path
from typing import Any

import yaml

from kanzoo.rundir import FORMAT, flatten, read_config, write_atomic

# Words for readers, and what may grow.
FREE = ("title", "question", "seeds")


def check_record(study: dict[str, Any], folder: Path) -> None:
    """Raise a `ValueError` that names the keys in which the folder's study differs.

    A study may get more seeds, not fewer: to look at fewer is to choose among results.
    """
    path = folder / "study.yaml"
    if not path.is_file():
        return
    saved = read_config(path)
    old, new = (_flat(values) for values in (saved, study))
    keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if study["seeds"] < saved.get("seeds", 0):
        keys.append(f"seeds ({saved['seeds']} there)")
    if keys:
        raise ValueError(
            f"{folder} holds a study of another configuration; these keys differ: "
            f"{', '.join(keys)}; choose another study.name or set overwrite=true"
        )


def write_record(study: dict[str, Any], folder: Path) -> None:
    """Write `study.yaml`, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({"format": FORMAT, **study}, sort_keys=False, allow_unicode=True)
    write_atomic(folder / "study.yaml", text)


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in values.items() if key not in FREE}
    return {key: str(value) for key, value in flatten(_text_keys(kept)).items()}


def _text_keys(values: dict[Any, Any]) -> dict[str, Any]:
    return {str(k): _text_keys(v) if isinstance(v, dict) else v for k, v in values.items()}
