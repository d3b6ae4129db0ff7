"""Whether adversarial images made for one model mislead another (Campagne 2020, Table 1)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from advphotoz._model import check_model, unwrapped
from advphotoz.attacks import Attack
from advphotoz.attacks.contract import bind_objective
from advphotoz.evaluation import report
from advphotoz.evaluation.evaluate import check_name
from advphotoz.evaluation.report import Row, make_row, provenance
from advphotoz.evaluation.run import CLEAN, Settings, prepared
from advphotoz.objectives import Objective
from advphotoz.redshift import Readout

__all__ = ["TransferMatrix", "transfer_matrix"]

KIND = "transfer matrix"


@dataclass(frozen=True)
class TransferMatrix:
    """Rows per source, the model that the images were made for, and target, the one that saw them.

    ``matrix["A"]["B"]`` is the `Row` of images made for A and shown to B; the source ``clean``
    stands for unchanged images.

    Attributes
    ----------
    rows : mapping
        As above.
    settings : mapping
        What it was made with, as plain values.
    """

    rows: Mapping[str, Mapping[str, Row]]
    settings: Mapping[str, Any]

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, source: str) -> Mapping[str, Row]:
        return self.rows[source]

    def values(self, metric: str = "eta") -> npt.NDArray[np.float64]:
        """Return one metric, a field of `Row`, as an array (sources with clean first, targets).

        Raises
        ------
        ValueError
            If there is no such metric, or it was not computed.
        """
        lines = [report.numbers_of(list(line.values()), metric) for line in self.rows.values()]
        return np.array(lines, dtype=np.float64)

    def __str__(self) -> str:
        attacked = {
            f"made for {name}": next(iter(line.values()))
            for name, line in self.rows.items()
            if name != CLEAN
        }
        return f"{report.text(*self._eta())}\n{report.unchecked(attacked)}"

    def to_markdown(self) -> str:
        """Return the table of eta as Markdown."""
        return report.markdown(*self._eta())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON; see `Evaluation.save`."""
        report.save_json(path, KIND, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TransferMatrix:
        """Read what `save` wrote; see `Evaluation.load`."""
        body = report.load_json(path, KIND)
        with report.whole(path, "a transfer matrix"):
            rows = {
                name: {shown: Row.from_dict(row) for shown, row in line.items()}
                for name, line in body["rows"].items()
            }
            return cls(rows, body["settings"])

    def _eta(self) -> tuple[list[str], list[list[str]]]:
        shown = list(next(iter(self.rows.values())))
        lines = [
            [name, *(report.share(r) for r in line.values())] for name, line in self.rows.items()
        ]
        return ["eta [%], made for", *(f"shown to {name}" for name in shown)], lines


def transfer_matrix(
    models: Mapping[str, nn.Module],
    loader: Iterable[Any],
    attack: Attack,
    readout: Readout,
    *,
    sources: Sequence[str] | None = None,
    objective: Objective | None = None,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    progress: bool = True,
    bootstrap: int = 200,
) -> TransferMatrix:
    """Make adversarial images for one or each model and show them to every model, in one pass.

    Parameters
    ----------
    models : mapping of str to Module
        All with the same readout and inputs.
    sources : sequence of str, optional
        Names of the models that images are made for. None: all of them.
    loader, attack, readout, objective, autocast, seed, progress, bootstrap
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
    >>> matrix = transfer_matrix(models, [batch], FGSM(0.1), RedshiftBins(n=4), progress=False)
    >>> matrix.values("eta").shape
    (3, 2)
    """
    if not models or not hasattr(models, "items") or CLEAN in models:
        raise ValueError(f"models must be a mapping of names, other than {CLEAN!r}, to models")
    for name, model in models.items():
        check_name(name, "a model")
        check_model(model)
    models = {name: unwrapped(model) for name, model in models.items()}
    chosen = list(models) if sources is None else list(sources)
    if isinstance(sources, str) or not chosen or not set(chosen) <= set(models):
        raise ValueError(f"sources must be a list of names out of {list(models)}, got {sources!r}")
    settings = Settings.of(readout, objective, autocast, seed, progress, bootstrap)
    bound = bind_objective(attack, settings.objective)
    with prepared(models.values(), settings) as run:
        crafted = {name: (models[name], bound) for name in chosen}
        done = run.one_pass(loader, models, crafted, "transfer matrix")
    z_spec, clean = done.z_spec.values().numpy(), done.clean
    rows = {
        CLEAN: {
            name: make_row(CLEAN, None, z_spec, clean[name], clean[name], settings)
            for name in models
        }
    }
    for source in chosen:
        rows[source] = {
            name: make_row(
                source, bound, z_spec, done.attacked[source, name], clean[name], settings
            )
            for name in models
        }
    return TransferMatrix(rows, provenance(models, {"attack": bound}, settings, done))
