"""Whether adversarial images made for one model mislead another (Campagne 2020, Table 1)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from advphotoz.attacks import Attack
from advphotoz.attacks.attack import bind_objective
from advphotoz.evaluation import _table
from advphotoz.evaluation._json import load_json, save_json
from advphotoz.evaluation._names import CLEAN
from advphotoz.evaluation._rows import make_row
from advphotoz.evaluation._stream import Setup, stream
from advphotoz.evaluation.evaluate import check_model
from advphotoz.evaluation.row import Row
from advphotoz.objectives import CrossEntropy, Objective
from advphotoz.redshift import RedshiftBins

__all__ = ["TransferMatrix", "transfer_matrix"]

KIND = "transfer matrix"


@dataclass(frozen=True)
class TransferMatrix:
    """Rows per model that the images were made for (``clean`` first) and model that saw them.

    ``matrix["A"]["B"]`` is the `Row` of images crafted on A and shown to B.
    """

    rows: Mapping[str, Mapping[str, Row]]

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, crafted_on: str) -> Mapping[str, Row]:
        return self.rows[crafted_on]

    def values(self, metric: str = "eta") -> npt.NDArray[np.float64]:
        """Return one metric, a field of `Row`, as an array (clean and crafted on, shown to)."""
        return np.array(
            [[getattr(r, metric) for r in line.values()] for line in self.rows.values()]
        )

    def __str__(self) -> str:
        return _table.text(*self._eta())

    def to_markdown(self) -> str:
        """Return the table of eta as Markdown."""
        return _table.markdown(*self._eta())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON; see `Evaluation.save`."""
        save_json(path, KIND, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TransferMatrix:
        """Read what `save` wrote; see `Evaluation.load`."""
        body = load_json(path, KIND)
        try:
            return cls(
                {
                    name: {shown: Row.from_dict(row) for shown, row in line.items()}
                    for name, line in body["rows"].items()
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} lacks a part of a transfer matrix: {error}") from error

    def _eta(self) -> tuple[list[str], list[list[str]]]:
        shown = list(next(iter(self.rows.values())))
        lines = [
            [name, *(_table.with_error(r.eta, r.eta_error, 100) for r in line.values())]
            for name, line in self.rows.items()
        ]
        return ["eta [%], crafted on", *(f"shown to {name}" for name in shown)], lines


def transfer_matrix(
    models: Mapping[str, nn.Module],
    loader: Iterable[Sequence[Tensor]],
    attack: Attack,
    *,
    crafted_on: Sequence[str] | None = None,
    bins: RedshiftBins | None = None,
    objective: Objective | None = None,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    progress: bool = True,
    bootstrap: int = 200,
) -> TransferMatrix:
    """Craft adversarial images on one or each model and show them to every model, in one pass.

    Parameters
    ----------
    models : mapping of str to Module
        All with the same bins and inputs.
    crafted_on : sequence of str, optional
        Names of the models that images are crafted on. None: all of them.
    loader, attack, bins, objective, autocast, seed, progress, bootstrap
        As in `evaluate`, which says what is raised too.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Table 1.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import FGSM, RedshiftBins
    >>> from advphotoz.evaluation import transfer_matrix
    >>> models = {"A": torch.nn.Linear(2, 4), "B": torch.nn.Linear(2, 4)}
    >>> batch = (torch.randn(8, 2), torch.rand(8))
    >>> matrix = transfer_matrix(models, [batch], FGSM(0.1), bins=RedshiftBins(n=4), progress=False)
    >>> matrix.values("eta").shape
    (3, 2)
    """
    if not models or CLEAN in models:
        raise ValueError(f"models must be a mapping of names, other than {CLEAN!r}, to models")
    chosen = list(models) if crafted_on is None else list(crafted_on)
    if isinstance(crafted_on, str) or not chosen or not set(chosen) <= set(models):
        raise ValueError(
            f"crafted_on must be a list of names out of {list(models)}, got {crafted_on!r}"
        )
    bins = RedshiftBins() if bins is None else bins
    setup = Setup(bins, objective or CrossEntropy(bins), autocast, seed, progress, bootstrap)
    bound = bind_objective(attack, setup.objective)
    for model in models.values():
        check_model(model)
    crafters = {name: (models[name], bound) for name in chosen}
    z_spec, tallies = stream(loader, crafters, models, setup)
    rows: dict[str, dict[str, Row]] = {}
    for (craft, judge), tally in tallies.items():
        made = bound if craft else None
        row = make_row(craft or CLEAN, made, z_spec, tally, tallies["", judge], setup)
        rows.setdefault(craft or CLEAN, {})[judge] = row
    return TransferMatrix(rows)
