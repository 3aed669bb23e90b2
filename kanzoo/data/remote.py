"""Data sets whose files lie in a folder, and are fetched where they are missing."""

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from kanzoo.checks import check_value
from kanzoo.data.base import Dataset
from kanzoo.data.files import File, check_content, check_sizes, download, missing, writable


class Downloaded(Dataset):
    """Files in `root / folder`; a subclass names them and says how they are fetched.

    `root` is the environment's KANZOO_DATA, or else `data`, unless given. Where the data are
    complete nothing is written.
    """

    folder: ClassVar[str]
    files: ClassVar[Mapping[str, File]]

    def __init__(
        self, *, root: str | Path | None = None, download: bool = True, **options: Any
    ) -> None:
        super().__init__(**options)
        self.root = os.environ.get("KANZOO_DATA", "data") if root is None else root
        self.download = download

    @property
    def path(self) -> Path:
        """The absolute folder that holds the files."""
        return Path(self.root).absolute() / self.folder

    def check(self, *, world_size: int = 1) -> None:
        """Check the options, and that every file is there and whole or can be fetched."""
        super().check(world_size=world_size)
        check_value("download", self.download, bool)
        if not isinstance(self.root, str | Path) or not str(self.root):
            raise ValueError(f"root must name a folder, not {self.root!r}")
        check_sizes(self.path, self.files)
        if missing(self.path, self.files):
            if not self.download:
                raise self.unavailable("download is false")
            if not writable(self.path):
                raise self.unavailable("they cannot be downloaded there: no write permission")

    def provide(self) -> None:
        """Fetch what is missing and verify all checksums."""
        if missing(self.path, self.files):
            try:
                download(Path(self.root).absolute(), self.folder, self.files, self.fetch_verified)
            except (OSError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise self.unavailable(f"the download failed ({reason})") from error
        check_sizes(self.path, self.files)
        check_content(self.path, self.files)

    def fetch_verified(self, root: Path) -> None:
        """Fetch into `root`, and refuse what is not the file that is known."""
        self.fetch(root)
        check_sizes(root / self.folder, self.files)
        check_content(root / self.folder, self.files)

    @abstractmethod
    def fetch(self, root: Path) -> None:
        """Make `root / folder` hold the files."""

    def unavailable(self, why: str) -> ValueError:
        """Return the error that says which files are missing, where, why and what to do."""
        absent = ", ".join(missing(self.path, self.files))
        return ValueError(
            f"{self.name}: no {absent} in {self.path}, and {why}; put the files there, or let root "
            f"(default KANZOO_DATA) name the folder that holds {self.folder}, or allow the download"
        )


class DownloadedFile(Downloaded):
    """One file with a public address."""

    address: ClassVar[str]

    @property
    def file(self) -> Path:
        """The absolute path of the file."""
        return self.path / next(iter(self.files))

    def fetch(self, root: Path) -> None:
        """Download the file."""
        from torch.hub import download_url_to_file

        (root / self.folder).mkdir(parents=True)
        target = root / self.folder / self.file.name
        download_url_to_file(self.address, str(target), progress=False)
