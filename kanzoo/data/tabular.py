"""Tables of real features: scikit-learn's, for classification and regression.

Axes: N samples, F features.
"""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kanzoo.data.base import DataSpec, Split
from kanzoo.data.files import File
from kanzoo.data.memory import MemoryDataset
from kanzoo.data.remote import Downloaded

Moments = tuple[Tensor, Tensor]


def moments(values: Tensor) -> Moments:
    """Return mean and deviation of every column of `(N, F)`; a constant one gets deviation 1."""
    mean, deviation = values.mean(0), values.std(0, correction=0)
    return mean, torch.where(deviation > 1e-12 * mean.abs(), deviation, 1.0)


def standardise(values: Tensor, known: Moments) -> Tensor:
    """Return float32 values relative to known moments."""
    mean, deviation = known
    return ((values - mean) / deviation).float()


class Table(MemoryDataset):
    """Rows `(F,)` with a class or a real value each; a subclass sets the constants and `rows`.

    Features are standardised with mean and deviation of the training split, real targets too:
    errors are in units of the deviation of the training targets. There is no official test set; a
    fifth of the rows that `split_seed` draws, stratified by class, serves as one.
    """

    test_set = "resampled"
    domain = "tables"

    num_features: ClassVar[int]
    num_classes: ClassVar[int] = 0
    """Zero for a real target."""
    class_names: ClassVar[tuple[str, ...]] = ()
    feature_names: ClassVar[tuple[str, ...]] = ()
    moments: dict[str, Moments]
    """Mean and deviation of "inputs" and real "targets" in the training split, once loaded."""

    def __init__(self, *, val_size: float = 0.2, **options: Any) -> None:
        super().__init__(val_size=val_size, **options)

    @property
    def spec(self) -> DataSpec:
        """Number of features, and of classes or one."""
        task = "classification" if self.num_classes else "regression"
        outputs = self.num_classes or 1
        return DataSpec((self.num_features,), outputs, task, self.class_names, "table")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the features, in order."""
        return self.feature_names

    @abstractmethod
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features `(N, F)` and targets `(N,)` of all rows."""

    def read(self) -> tuple[Split, Split]:
        """Return the rows outside the test set, and those in it."""
        features, targets = self.rows()
        x = torch.from_numpy(np.asarray(features, dtype=np.float64))
        y = torch.from_numpy(np.asarray(targets))
        y = y.long() if self.num_classes else y.double()[:, None]  # (N,) or (N, 1)
        if x.shape[1:] != (self.num_features,) or not (x.isfinite().all() and y.isfinite().all()):
            raise ValueError(
                f"{self.name} is corrupt: it must be finite numbers of {self.num_features} features"
            )
        return self.divide(x, y, type(self).__name__)

    def cut(self) -> dict[str, Split]:
        """Read and split the rows, and standardise them with the training split's moments."""
        splits = super().cut()
        features = moments(splits["train"].x)
        target = None if self.num_classes else moments(splits["train"].y)
        self.moments = {"inputs": features} | ({} if target is None else {"targets": target})
        return {
            part: Split(standardise(x, features), y if target is None else standardise(y, target))
            for part, (x, y) in splits.items()
        }


class BreastCancer(Table):
    """569 tumours, 30 features of cell nuclei: malignant or benign (Wolberg et al., 1995)."""

    num_features, num_classes = 30, 2
    num_train, num_test = 455, 114
    class_names = ("malignant", "benign")
    feature_names = tuple(
        pattern.format(name)
        for pattern in ("mean {}", "{} error", "worst {}")
        for name in (
            "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity",
            "concave points", "symmetry", "fractal dimension",
        )
    )  # fmt: skip

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scikit-learn's copy."""
        from sklearn.datasets import load_breast_cancer

        return load_breast_cancer(return_X_y=True)


class Wine(Table):
    """178 wines of three growers by 13 chemical features (Forina et al., 1988)."""

    num_features, num_classes = 13, 3
    num_train, num_test = 142, 36
    class_names = ("class_0", "class_1", "class_2")
    feature_names = (
        "alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols",
        "flavanoids", "nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue",
        "od280/od315_of_diluted_wines", "proline",
    )  # fmt: skip

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scikit-learn's copy."""
        from sklearn.datasets import load_wine

        return load_wine(return_X_y=True)


class Diabetes(Table):
    """442 patients, 10 features: progression of diabetes after a year (Efron et al., 2004)."""

    num_features = 10
    num_train, num_test = 353, 89
    feature_names = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return scikit-learn's copy with the features as measured."""
        from sklearn.datasets import load_diabetes

        return load_diabetes(return_X_y=True, scaled=False)


class CaliforniaHousing(Downloaded, Table):
    """20,640 districts, 8 features: median value of houses (Pace and Barry, 1997).

    Fetched through scikit-learn where it is missing, and kept as a plain array: scikit-learn's own
    cache is a pickle, and a pickle that lies beside a downloaded run could run code.
    """

    num_features = 8
    num_train, num_test = 16_512, 4_128
    feature_names = (
        "MedInc", "HouseAge", "AveRooms", "AveBedrms", "Population", "AveOccup", "Latitude",
        "Longitude",
    )  # fmt: skip
    folder = "california_housing"
    files: ClassVar[Mapping[str, File]] = {"california_housing.npy": File(20_640 * 9 * 8 + 128)}

    def fetch(self, root: Path) -> None:
        """Download through scikit-learn, and keep features and target as nine columns."""
        from tempfile import TemporaryDirectory

        from sklearn.datasets import fetch_california_housing

        (root / self.folder).mkdir(parents=True)
        with TemporaryDirectory(dir=root) as cache:
            x, y = fetch_california_housing(data_home=cache, return_X_y=True)
        np.save(root / self.folder / next(iter(self.files)), np.column_stack([x, y]))

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the array that was kept."""
        self.provide()
        path = self.path / next(iter(self.files))
        try:
            table = np.load(path, allow_pickle=False)
            return table[:, :-1], table[:, -1]
        except (ValueError, IndexError) as error:
            raise ValueError(
                f"{path} is corrupt ({error}); delete it and fetch it again"
            ) from error
