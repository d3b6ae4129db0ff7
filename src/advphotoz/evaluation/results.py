"""The result of `evaluate`: prints as a table, saves as JSON."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from advphotoz.evaluation import _table
from advphotoz.evaluation._json import floats, load_json, plain, save_json
from advphotoz.evaluation.row import Row
from advphotoz.evaluation.sanity import Sanity

__all__ = ["Evaluation"]

KIND = "evaluation"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of one model on clean images, under noise and under each attack.

    ``str(result)`` is a text table in the paper's units, with the sanity section below it;
    ``result["clean"]`` is one row.

    Attributes
    ----------
    rows : tuple of Row
        Clean first, then noise, then the attacks in the order given.
    z_spec : ndarray, (N,)
        True redshifts, float32.
    z_phot : mapping of str to ndarray, (N,)
        Per row name, the estimated redshifts (mean of the PDF), float32.
    pit : mapping of str to ndarray, (N,)
        Per row name, the CDF at z_spec (:func:`advphotoz.metrics.pit`), float32: uniform on
        [0, 1] where the PDFs are calibrated.
    sanity : Sanity or None
        Whether the numbers can be trusted.
    settings : mapping
        What it was made with: model, bins, objective, seed and so on, as plain values.
    """

    rows: tuple[Row, ...]
    z_spec: npt.NDArray[np.float32]
    z_phot: Mapping[str, npt.NDArray[np.float32]]
    pit: Mapping[str, npt.NDArray[np.float32]]
    sanity: Sanity | None
    settings: Mapping[str, Any]

    def __getitem__(self, name: str) -> Row:
        """Return the row of that name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row {name!r}; the rows are {[row.name for row in self.rows]}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Evaluation):
            return NotImplemented
        same: bool = plain(self._body()) == plain(other._body())  # NaN equals NaN here
        return same

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        lines = [[row.name, *_table.cells(row), *_table.norms(row)] for row in self.rows]
        table = _table.text(["attack", *_table.TEXT_HEADER, "max Linf", "max L2"], lines)
        parts = [table, _table.note(self.rows)]
        if self.sanity is not None:
            parts += ["", str(self.sanity)]
        return "\n".join(parts)

    def to_markdown(self) -> str:
        """Return the table, without the sanity section, as Markdown."""
        lines = [[row.name, *_table.cells(row), *_table.norms(row)] for row in self.rows]
        return _table.markdown(["attack", *_table.MARKDOWN_HEADER, "max L∞", "max L2"], lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON, whole or not at all; missing folders are made.

        Raises
        ------
        OSError
            If the folder cannot be written to.
        """
        save_json(path, KIND, self._body())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read what `save` wrote.

        Raises
        ------
        OSError
            If there is no such file.
        ValueError
            If the file is cut off, is no JSON, or is not an evaluation of this format version.
        """
        body = load_json(path, KIND)
        try:
            sanity = body["sanity"]
            return cls(
                rows=tuple(Row.from_dict(row) for row in body["rows"]),
                z_spec=_array(body["z_spec"]),
                z_phot={name: _array(values) for name, values in body["z_phot"].items()},
                pit={name: _array(values) for name, values in body["pit"].items()},
                sanity=None if sanity is None else Sanity.from_dict(sanity),
                settings=body["settings"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} lacks a part of an evaluation ({type(error).__name__}: {error}); "
                "make it again with .save()"
            ) from error

    def _body(self) -> dict[str, Any]:
        return {
            "settings": dict(self.settings),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "sanity": None if self.sanity is None else dataclasses.asdict(self.sanity),
            "z_spec": floats(self.z_spec),
            "z_phot": {name: floats(values) for name, values in self.z_phot.items()},
            "pit": {name: floats(values) for name, values in self.pit.items()},
        }


def _array(values: list[Any]) -> npt.NDArray[np.float32]:
    return np.array([float(value) for value in values], dtype=np.float32)
