"""Texts for language models of characters.

Axes: B windows, T characters (`block_size`), V vocabulary.
"""

import hashlib
import math
import platform
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from kanzoo.checks import check_whole
from kanzoo.data.base import IGNORE, Counts, DataSpec, Split
from kanzoo.data.files import File
from kanzoo.data.loader import Batch, Identity, Transform
from kanzoo.data.memory import InMemory
from kanzoo.data.remote import DownloadedFile


class RandomWindows:
    """Windows at random places: window i of n begins somewhere in the i-th of n equal stretches.

    So every place is equally likely to begin a window, and an epoch reads all parts of the text
    about once.
    """

    noise = 1

    def __init__(self, text: Tensor, count: int, block_size: int, device: torch.device) -> None:
        starts = len(text) - block_size  # where a window and the character after it fit
        self.edges = (torch.arange(count + 1) * starts // count).to(device)
        self.text = text.to(device)
        self.window = torch.arange(block_size + 1, device=device)

    def __call__(self, x: Tensor, y: Tensor, noise: Tensor | None) -> Batch:
        """Return characters `(B, T)` and the ones after them; `x` `(B,)` numbers the windows."""
        assert noise is not None
        first, width = self.edges[x], self.edges[x + 1] - self.edges[x]
        start = first + (noise[:, 0] * width).long()
        window = self.text[start[:, None] + self.window]  # (B, T + 1)
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()


def tile(text: Tensor, block_size: int) -> Split:
    """Cut a text into windows `(N, T)`; together they predict each character but the first, once.

    The last window is filled up; the targets there are `IGNORE`.
    """
    count = math.ceil((len(text) - 1) / block_size)
    missing = count * block_size - (len(text) - 1)
    x = F.pad(text[:-1], (0, missing)).view(count, block_size)
    y = F.pad(text[1:], (0, missing), value=IGNORE).view(count, block_size)
    return Split(x, y)


class Text(InMemory):
    """Characters; a subclass gives the text, and its length and vocabulary without reading it.

    The first 90 % are for training, 5 % each for validation and test. `block_size` is the number
    of characters that a network sees. Training windows lie at random places, as many an epoch as
    fit in without overlap; validation and test windows do not overlap and cover their parts once.
    Limits count windows from the start of a part.
    """

    reference_name = "letter frequencies"
    domain = "sequence and text"
    is_ordered = True

    def __init__(self, *, block_size: int = 128, **options: Any) -> None:
        super().__init__(**options)
        self.block_size = block_size
        self.train_text: Tensor | None = None
        self.characters: list[str] = []

    @property
    @abstractmethod
    def length(self) -> int:
        """Characters in the text."""

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """Different characters in the text."""

    @abstractmethod
    def read(self) -> str:
        """Return the text; raise `ValueError` on a corrupt file."""

    @property
    def spec(self) -> DataSpec:
        """Length of a window and the size of the vocabulary."""
        return DataSpec((self.block_size,), self.vocabulary_size, "language", kind="tokens")

    def borders(self) -> tuple[int, int]:
        """Return where validation and test begin."""
        return self.length * 90 // 100, self.length * 95 // 100

    def counts(self) -> Counts:
        """Return how many windows each split holds."""
        check_whole("block_size", self.block_size, 1, self.length // 100)
        val, test = self.borders()
        train = (val - 1) // self.block_size
        sizes = (math.ceil((n - 1) / self.block_size) for n in (test - val, self.length - test))
        return self.limited_counts(train, *sizes)

    def cut(self) -> dict[str, Split]:
        """Read the text and cut it; training samples are the numbers of windows."""
        text = self.read()
        self.characters = sorted(set(text))
        number = {character: i for i, character in enumerate(self.characters)}
        codes = torch.tensor([number[character] for character in text])
        counts, (val, test) = self.counts(), self.borders()
        windows = torch.arange(counts.train)
        if self.limit_train is not None:
            self.train_text = codes[: counts.train * self.block_size + 1]
        else:
            self.train_text = codes[:val]
        splits = {"train": Split(windows, windows)}
        for part, piece, count in (
            ("val", codes[val:test], counts.val),
            ("test", codes[test:], counts.test),
        ):
            x, y = tile(piece, self.block_size)
            splits[part] = Split(x[:count], y[:count])
        return splits

    def make_transform(self, part: str, device: torch.device) -> Transform:
        """Return the choice of windows for training; the others are cut already."""
        if part != "train":
            return Identity()
        assert self.train_text is not None
        return RandomWindows(self.train_text, self.counts().train, self.block_size, device)

    def reference_scores(self, part: str) -> dict[str, float]:
        """Return the scores of the characters' frequencies in training, each counted once more."""
        assert self.train_text is not None
        counts = torch.bincount(self.train_text, minlength=self.vocabulary_size) + 1
        nats = -(counts / counts.sum()).double().log()  # (V,)
        y = self.loaded[part].y
        mean = float(nats[y[y != IGNORE]].mean())
        return {"bits_per_char": mean / math.log(2), "perplexity": math.exp(mean)}

    def decode(self, codes: Tensor) -> str:
        """Return the characters that codes `(T,)` stand for; known after loading."""
        return "".join(self.characters[code] for code in codes.tolist())


class Shakespeare(DownloadedFile, Text):
    """Tiny Shakespeare: 1,115,394 characters of plays, 65 different ones (Karpathy, 2015)."""

    length = 1_115_394
    vocabulary_size = 65
    folder = "tinyshakespeare"
    files: ClassVar[Mapping[str, File]] = {
        "input.txt": File(
            1_115_394, sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
        )
    }
    address = (
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    )

    def read(self) -> str:
        """Fetch the file where it is missing, verify and read it."""
        self.provide()
        return self.file.read_text(encoding="ascii")


class PythonDocs(Text):
    """The language reference that Python carries for `help()`, in the order of its topics.

    Topics repeat whole sections of one another, so a paragraph is kept only where it comes first:
    otherwise a sixth of the test text would be in the training text word for word. The text differs
    between versions of Python, in length and vocabulary too; `spec.version` names it.
    """

    @cached_property
    def text(self) -> str:
        """The paragraphs of all topics, each once."""
        from pydoc_data.topics import topics

        paragraphs: dict[str, str] = {}
        for name in sorted(topics):
            for paragraph in topics[name].strip("\n").split("\n\n"):
                paragraphs.setdefault(" ".join(paragraph.split()), paragraph)
        paragraphs.pop("", None)
        return "\n\n".join(paragraphs.values())

    @property
    def length(self) -> int:
        """Characters in the text of this Python."""
        return len(self.text)

    @cached_property
    def vocabulary_size(self) -> int:
        """Different characters in the text of this Python."""
        return len(set(self.text))

    @property
    def spec(self) -> DataSpec:
        """Length of a window, the vocabulary, and which text it is."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()[:12]
        version = f"Python {platform.python_version()}, sha256 {digest}"
        shape, size = (self.block_size,), self.vocabulary_size
        return DataSpec(shape, size, "language", kind="tokens", version=version)

    def read(self) -> str:
        """Return the text."""
        return self.text
