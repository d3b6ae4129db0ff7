"""The galaxies: simulated, or read from the file of Pasquet et al. 2019."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from advphotoz.datasets import simulate

from .scales import Scale

__all__ = ["Galaxies"]


class Galaxies:
    """Test, validation and training sets that have no galaxy in common.

    `training(k)` draws the k-th training set from the pool: other galaxies for another k, though
    two sets overlap by n_train / n_pool on average.
    """

    def __init__(self, scale: Scale, path: Path | None) -> None:
        data: Any
        if path is None:
            data = simulate(scale.galaxies, seed=0, size=scale.size)
        else:
            from advphotoz.datasets import StoredCutouts

            data = StoredCutouts(path)
        if len(data) < scale.galaxies:
            raise SystemExit(
                f"{path} holds {len(data)} galaxies, and this scale needs {scale.galaxies}; "
                "choose a smaller --scale"
            )
        self.scale, self._data = scale, data
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        order = order[: scale.galaxies]
        self._test, self._valid, self._pool = order.split(
            [scale.n_test, scale.n_valid, scale.n_pool]
        )
        self.image_size: int = data[0][0].shape[-1]

    def training(self, k: int) -> Any:
        """Return the k-th training set."""
        order = torch.randperm(len(self._pool), generator=torch.Generator().manual_seed(k))
        return self._data.subset(self._pool[order[: self.scale.n_train]].sort().values)

    def validation(self) -> Any:
        """Return the galaxies that choose the best epoch."""
        return self._data.subset(self._valid)

    def test(self, n: int) -> Any:
        """Return the first n galaxies of the test set."""
        return self._data.subset(self._test[:n])

    def catalogue(self, n: int) -> dict[str, torch.Tensor]:
        """Return z, and where they are known r and g - r, of the first n of the test set."""
        test = self.test(n)
        known = test.catalogue
        columns = {"z": test.z}
        if "mag" in known:  # simulated; observed magnitudes, ugriz
            columns |= {"r": known["mag"][:, 2], "g - r": known["mag"][:, 1] - known["mag"][:, 2]}
        elif {"dered_petro_g", "dered_petro_r"} <= known.keys():
            g, r = known["dered_petro_g"], known["dered_petro_r"]
            columns |= {"r": r, "g - r": g - r}
        return columns
