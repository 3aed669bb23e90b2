"""`metrics.csv`: every logged value, also over interruptions."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class MetricsCSV(Logger):
    """Writes one row a logged step into `FOLDER/metrics.csv` and keeps the rows of earlier parts.

    Lightning's own CSV logger deletes the file when a run goes on. `resume_epoch` is the first
    epoch that will be trained again: rows from there on are dropped, since they come anew.
    """

    def __init__(self, folder: Path, resume_epoch: int = 0) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, Any]] = []
        self.columns = ["epoch", "step"]
        self._written = 0
        if resume_epoch and self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self.columns = list(reader.fieldnames or self.columns)
                self.rows = [row for row in reader if float(row["epoch"] or 0) < resume_epoch]

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        new = [name for name in metrics if name not in self.columns]
        if new:
            self.columns += sorted(new)
            self._written = 0  # the header changes: write the file anew
        self.rows.append({**metrics, "step": step})

    @rank_zero_only
    def save(self) -> None:
        if self._written == len(self.rows):
            return
        fresh = self._written == 0
        with self.path.open("w" if fresh else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            if fresh:
                writer.writeheader()
            writer.writerows(self.rows[self._written :])
        self._written = len(self.rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
