"""`study.yaml`: what a study's folder was made by, and what was added to it when.

A study may grow: in seeds, arms, models, data sets, budgets, values of axes, and contrasts of new
arms. What was there stays as it was, and what decides verdicts cannot change.
"""

from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from kanzoo.checks import build, value_text
from kanzoo.files import write_atomic
from kanzoo.rundir import FORMAT, read_config
from kanzoo.settings import StudyConfig
from kanzoo.study.plan import arms_of

FILE = "study.yaml"
WORDS = ("title", "question", "select")  # for readers, and what is run now
LISTS = ("data", "match", "train_fraction", "label_noise")  # which may get further entries
NAMED = ("models", "arms", "differences")  # likewise, by name
CONTROLS = ("controls", "controls_of")  # what they mean stands in the arms


@dataclass(frozen=True)
class Record:
    """A study and its history: the day of every change, and a phrase for each thing added."""

    study: StudyConfig
    added: dict[str, list[str]] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """The history as sentences, for the report."""
        return [f"Added on {day}: {'; '.join(texts)}." for day, texts in self.added.items()]


def check_record(study: StudyConfig, folder: Path) -> None:
    """Raise a `ValueError` that names the keys in which the folder's study cannot change so."""
    if (folder / FILE).is_file():
        _grown(read_record(folder).study, study, folder)


def read_record(folder: Path) -> Record:
    """The record of a study's folder; `ValueError` for a file of another format."""
    content = read_config(folder / FILE)
    added = content.pop("added", {})
    lists = [*added.values()] if isinstance(added, dict) else [added]
    if not all(isinstance(t, list) and all(isinstance(s, str) for s in t) for t in lists):
        raise ValueError(f"{folder / FILE}: added must list texts by the day, got {added!r:.60}")
    added = {str(day): texts for day, texts in added.items()}
    return Record(build(StudyConfig, content, f"{folder / FILE}: "), added)


def write_record(study: StudyConfig, folder: Path, overwrite: bool = False) -> None:
    """Write `study.yaml` in one step, with what was added since the last time."""
    record = Record(study)
    if (folder / FILE).is_file() and not overwrite:
        record = join_records(read_record(folder), record, folder)
    write_joined(record, folder)


def join_records(old: Record, new: Record, folder: Path) -> Record:
    """A study that has grown, with the history of both; what neither tells was added today.

    Raises `ValueError` where the new study is no growth of the old one; the error names `folder`.
    """
    added: dict[str, list[str]] = {}
    for day, texts in sorted([*old.added.items(), *new.added.items()]):
        added.setdefault(day, []).extend(t for t in texts if t not in added.get(day, []))
    known = [text for texts in added.values() for text in texts]
    today = [text for text in _grown(old.study, new.study, folder) if text not in known]
    if today:
        added.setdefault(f"{datetime.now(UTC):%Y-%m-%d}", []).extend(today)
    return Record(new.study, added)


def write_joined(record: Record, folder: Path) -> None:
    """Write `study.yaml` as a record says."""
    folder.mkdir(parents=True, exist_ok=True)
    declared = {key: value for key, value in asdict(record.study).items() if key != "select"}
    history = {"added": record.added} if record.added else {}
    content = {"format": FORMAT, **declared, **history}
    write_atomic(folder / FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _grown(old: StudyConfig, new: StudyConfig, folder: Path) -> list[str]:
    """What a study has gained, a phrase for each kind; `ValueError` for any other change."""
    texts: list[str] = []
    wrong: list[str] = []

    def compare(key: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        lost = [name for name in before if before[name] != after.get(name)]
        wrong.extend(f"{key}.{name}" for name in lost)
        if more := [name for name in after if name not in before]:
            texts.append(f"{key} {', '.join(more)}")

    for each in fields(StudyConfig):
        key, before, after = each.name, getattr(old, each.name), getattr(new, each.name)
        if key in LISTS:
            compare(key, *(dict.fromkeys(map(value_text, names), "") for names in (before, after)))
        elif key == "arms":  # the control arms among them
            compare(key, arms_of(old), arms_of(new))
        elif key in NAMED:
            compare(key, before, after)
        elif key == "axes":
            if set(before) != set(after) or any(before[k].arms != after[k].arms for k in before):
                wrong.append(key)
            else:
                for name in before:
                    compare(f"axes.{name}", before[name].values, after[name].values)
        elif key == "contrasts":
            fresh = set(arms_of(new)) - set(arms_of(old))
            more = [pair for pair in after if pair not in before]
            if [p for p in before if p not in after] or not all(fresh & {*pair} for pair in more):
                wrong.append(key)
            texts.extend(f"contrast {' against '.join(pair)}" for pair in more)
        elif key == "seeds":
            if after < before:  # to look at fewer is to choose among results
                wrong.append(f"seeds ({before} there)")
            elif after > before:
                texts.append(f"seeds {before + new.first_seed} to {after + new.first_seed - 1}")
        elif key not in (*WORDS, *CONTROLS) and before != after:
            wrong.append(key)
    if wrong:
        raise ValueError(
            f"{folder} holds a study of another configuration; these keys differ: "
            f"{', '.join(sorted(set(wrong)))}; a study may grow, not change: choose another "
            "study.name or set overwrite=true"
        )
    return texts
