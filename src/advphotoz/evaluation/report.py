"""What an evaluation found: rows of metrics, tables of them, and files that hold everything."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from advphotoz import metrics
from advphotoz._checks import require
from advphotoz._files import replacing
from advphotoz._model import device_of
from advphotoz.evaluation.checks import Checks
from advphotoz.evaluation.run import CLEAN, Pass, Settings
from advphotoz.evaluation.tally import Tally
from advphotoz.evaluation.tomography import Tomography, astropy_table, tomography
from advphotoz.provenance import command, machine, versions, weights_digest

__all__ = ["Evaluation", "Row", "load_json", "make_row", "provenance", "save_json"]

WORDS = ("name", "attack", "flags")  # what is no metric in a row
VERSION = 3  # of the files; raised whenever what they hold changes


@dataclass(frozen=True)
class Row:
    r"""Metrics of one model on images that one attack has changed.

    Redshift metrics are those of :mod:`advphotoz.metrics`, with
    :math:`\Delta z = (z_{phot} - z_{spec}) / (1 + z_{spec})`. They are plain numbers: the factors
    1e4, 1e3 and 100 of the printed tables are not applied.

    Two errors answer two questions. That of a metric says how far it would scatter with another
    sample of galaxies. A change against the clean images is measured on the same galaxies, whose
    scatter cancels, and has an error of its own, which is often far smaller.

    Attributes
    ----------
    name : str
        Name of the attack; ``clean`` and ``noise`` are the controls.
    attack : str
        ``repr`` of the attack, its objective included; ``none`` for clean images.
    n : int
        Number of samples.
    bias, sigma_mad, eta : float
        The paper's three metrics; `eta` is the fraction with :math:`|\Delta z| > 0.05`.
    bias_error, sigma_mad_error : float or None
        Their bootstrap standard errors; None if none were asked for.
    eta_low, eta_high : float
        Wilson's interval of eta, at one standard deviation.
    bias_change, sigma_mad_change, eta_change : float
        Against the clean images, on the same galaxies.
    bias_change_error, sigma_mad_change_error, eta_change_error : float or None
        Their paired bootstrap standard errors.
    median_bias, sigma_iqr, outlier_fraction_desc : float
        The metrics in the conventions of LSST DESC.
    crps, cde_loss, nll : float or None
        Of the PDFs: continuous ranked probability score (in redshift), loss of the conditional
        density estimate, negative log-likelihood. None where the network predicts no PDF.
    objective_before, objective_after : float
        Mean objective of the clean images, and of the changed ones.
    linf, l2 : float
        Largest norms of x_adv - x over the samples, in the units of the image.
    size : float or None
        How much of its room the attack uses, in the mean; None where it does not say so.
    rising : float or None
        Share of the samples whose objective still rose at the last step.
    flags : tuple of str
        What the checks found wrong with this attack, such as ``not converged``.
    """

    name: str
    attack: str
    n: int
    bias: float
    sigma_mad: float
    eta: float
    bias_error: float | None
    sigma_mad_error: float | None
    eta_low: float
    eta_high: float
    bias_change: float
    bias_change_error: float | None
    sigma_mad_change: float
    sigma_mad_change_error: float | None
    eta_change: float
    eta_change_error: float | None
    median_bias: float
    sigma_iqr: float
    outlier_fraction_desc: float
    crps: float | None
    cde_loss: float | None
    nll: float | None
    objective_before: float
    objective_after: float
    linf: float
    l2: float
    size: float | None
    rising: float | None
    flags: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """Build a row from what JSON gave back, where NaN and infinities are strings."""
        kinds: dict[str, Any] = {"name": str, "attack": str, "n": int, "flags": tuple}
        parsed: dict[str, Any] = {}
        for f in dataclasses.fields(cls):
            value = values[f.name]
            parsed[f.name] = None if value is None else kinds.get(f.name, float)(value)
        return cls(**parsed)


def make_row(
    name: str,
    attack: Any,
    z_spec: npt.NDArray[np.float32],
    tally: Tally,
    clean: Tally,
    settings: Settings,
    flags: tuple[str, ...] = (),
) -> Row:
    """Turn what was gathered over all batches into metrics."""
    n = len(z_spec)
    z_phot, before = tally.column("z_phot").numpy(), clean.column("z_phot").numpy()
    resamples = settings.bootstrap if n > 1 else 0
    draws: dict[str, int] = {"n_resamples": resamples, "seed": settings.seed}
    numbers: dict[str, Any] = {}
    for key, metric in (
        ("bias", metrics.bias),
        ("sigma_mad", metrics.sigma_mad),
        ("eta", metrics.outlier_fraction),
    ):
        value, error, change, change_error = metric(z_phot, z_spec), None, 0.0, None
        if resamples and key != "eta":
            error = metrics.bootstrap_error(metric, z_phot, z_spec, **draws)
        if tally is clean:
            change_error = 0.0 if resamples else None
        elif resamples:
            change, change_error = metrics.paired_change(metric, z_phot, before, z_spec, **draws)
        else:
            change = value - metric(before, z_spec)
        numbers |= {key: value, f"{key}_error": error}
        numbers |= {f"{key}_change": change, f"{key}_change_error": change_error}
    del numbers["eta_error"]  # a share has an interval
    low, high = metrics.wilson_interval(round(n * numbers["eta"]), n)
    before_objective, objective = clean.mean("objective"), tally.mean("objective")
    assert before_objective is not None
    assert objective is not None
    return Row(
        name=name,
        attack="none" if attack is None else quote(attack),
        n=n,
        eta_low=low,
        eta_high=high,
        median_bias=metrics.median_bias(z_phot, z_spec),
        sigma_iqr=metrics.sigma_iqr(z_phot, z_spec),
        outlier_fraction_desc=metrics.outlier_fraction_desc(z_phot, z_spec),
        crps=tally.mean("crps"),
        cde_loss=tally.mean("cde_loss"),
        nll=tally.mean("nll"),
        objective_before=before_objective,
        objective_after=objective,
        linf=tally.largest.get("linf", 0.0),
        l2=tally.largest.get("l2", 0.0),
        size=tally.mean("size"),
        rising=tally.mean("rising"),
        flags=flags,
        **numbers,
    )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of one model on clean images, under noise and under each attack.

    ``str(result)`` is a text table in the paper's units, with the verdict of the checks above it
    and the checks below; ``result["clean"]`` is one row.

    Attributes
    ----------
    rows : tuple of Row
        Clean first, then noise, then the attacks in the order given.
    z_spec : ndarray, (N,)
        True redshifts, float32.
    z_phot : mapping of str to ndarray, (N,)
        Per row name, the estimated redshifts, float32.
    pit : mapping of str to ndarray, (N,)
        Per row name, the CDF at z_spec, float32: uniform on [0, 1] where the PDFs are calibrated.
        Empty where the network predicts no PDF.
    checks : Checks or None
        Whether the numbers can be trusted.
    settings : mapping
        What it was made with, and on what: readout, objective, attacks, seed, versions, machine,
        digests of weights and data, as plain values.
    pdf : mapping of str to ndarray, (N, n)
        Per row name, the probabilities of the bins, float32. Empty unless `evaluate` was asked to
        keep them (``keep_pdf=True``).
    edges : ndarray, (n + 1,), or None
        Edges of these bins, in redshift.
    """

    rows: tuple[Row, ...]
    z_spec: npt.NDArray[np.float32]
    z_phot: Mapping[str, npt.NDArray[np.float32]]
    pit: Mapping[str, npt.NDArray[np.float32]]
    checks: Checks | None
    settings: Mapping[str, Any]
    pdf: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    edges: npt.NDArray[np.float64] | None = None

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
        lines = [[*cells(row), *room(row)] for row in self.rows]
        table = text(["attack", *TEXT_HEADER, *ROOM_HEADER], lines)
        parts = [table, note(self.rows)]
        if self.checks is not None:
            parts = [self.checks.verdict, "", *parts, "", self.checks.listed()]
        return "\n".join(parts)

    def to_markdown(self) -> str:
        """Return the table as Markdown, with the verdict of the checks in bold above it."""
        lines = [[*cells(row), *room(row)] for row in self.rows]
        table = markdown(["attack", *MARKDOWN_HEADER, *ROOM_HEADER], lines)
        return table if self.checks is None else f"**{self.checks.verdict}**\n\n{table}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON, whole or not at all; missing folders are made.

        PDFs that were kept lie beside it, in an uncompressed .npz file of the same name
        (``report.json`` and ``report.pdf.npz``) with the arrays `edges` and `pdf.NAME`.

        Raises
        ------
        OSError
            If the folder cannot be written to.
        """
        if self.pdf:
            arrays = {f"pdf.{name}": values for name, values in self.pdf.items()}
            with replacing(_beside(path)) as part, part.open("wb") as file:
                np.savez(file, allow_pickle=False, edges=self.edges, **arrays)  # type: ignore[arg-type]
        save_json(path, "evaluation", self._body())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read what `save` wrote.

        Raises
        ------
        OSError
            If there is no such file.
        ValueError
            If the file is cut off, is no JSON, or is not an evaluation of this format version; or
            if the file of PDFs beside it is not the one that was written with it.

        Warns
        -----
        UserWarning
            If PDFs were kept and their file is not there: the rest is read.
        """
        body = load_json(path, "evaluation")
        pdf, edges = _load_pdf(path, body.get("pdf_sha256"))
        with whole(path, "an evaluation"):
            checks = body["checks"]
            return cls(
                rows=tuple(Row.from_dict(row) for row in body["rows"]),
                z_spec=_array(body["z_spec"]),
                z_phot={name: _array(values) for name, values in body["z_phot"].items()},
                pit={name: _array(values) for name, values in body["pit"].items()},
                checks=None if checks is None else Checks.from_dict(checks),
                settings=body["settings"],
                pdf=pdf,
                edges=edges,
            )

    def by_bin(self, edges: Sequence[float], by: str = "clean") -> Tomography:
        """Measure every row in tomographic bins of the redshift, with the shifts of their means.

        Parameters
        ----------
        edges : sequence of float
            Edges of the bins in redshift, increasing; galaxies outside of them are left out, and
            counted.
        by : str
            The row whose z_phot puts a galaxy into its bin, ``"clean"`` as the survey would without
            an attack, or ``"z_spec"``.

        Raises
        ------
        KeyError
            If there is no such row.
        ValueError
            If the edges do not increase, or no galaxy lies in them.
        """
        if by != "z_spec":
            self[by]
        draws = {"n_resamples": int(self.settings["bootstrap"]), "seed": self.settings["seed"]}
        return tomography(self.z_spec, self.z_phot, edges, by, CLEAN, **draws)

    def to_qp(self, name: str = CLEAN) -> Any:
        """Return the PDFs of a row as a histogram `qp.Ensemble`, for RAIL and DESC's tools.

        Its ancillary table holds `z_spec`, `z_phot` and `pit`. qp writes it:
        ``result.to_qp("PGD-10").write_to("attacked.hdf5")``.

        Raises
        ------
        ImportError
            If qp is not installed (extra ``survey``).
        KeyError
            If there is no such row.
        ValueError
            If the PDFs were not kept.
        """
        self[name]
        if name not in self.pdf:
            raise ValueError("the PDFs were not kept: evaluate(..., keep_pdf=True)")
        qp = require("qp", "survey")
        ancillary = {"z_spec": self.z_spec, "z_phot": self.z_phot[name], "pit": self.pit[name]}
        data = {"bins": self.edges, "pdfs": self.pdf[name].astype(np.float64)}
        return qp.Ensemble(qp.hist, data=data, ancil=ancillary)

    def to_table(self) -> Any:
        """Return the rows as an `astropy.table.Table`, a column per metric.

        What was not computed is NaN. Numbers are plain, without the factors of the printed table.

        Raises
        ------
        ImportError
            If astropy is not installed (extra ``survey``).
        """
        lines = [dataclasses.asdict(row) for row in self.rows]
        for line in lines:
            line["flags"] = ", ".join(line["flags"])
        return astropy_table(lines)

    def galaxies(self) -> Any:
        """Return an `astropy.table.Table` with z_spec, and z_phot and PIT of every row, per galaxy.

        In the order of the loader: do not shuffle it where a catalogue is to be joined.

        Raises
        ------
        ImportError
            If astropy is not installed (extra ``survey``).
        """
        columns = {"z_spec": self.z_spec}
        columns |= {f"z_phot {name}": values for name, values in self.z_phot.items()}
        columns |= {f"pit {name}": values for name, values in self.pit.items()}
        return require("astropy.table", "survey").Table(columns)

    def _body(self) -> dict[str, Any]:
        return {
            "settings": dict(self.settings),
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "checks": None if self.checks is None else dataclasses.asdict(self.checks),
            "z_spec": floats(self.z_spec),
            "z_phot": {name: floats(values) for name, values in self.z_phot.items()},
            "pit": {name: floats(values) for name, values in self.pit.items()},
            "pdf_sha256": _pdf_digest(self.pdf, self.edges) if self.pdf else None,
        }


def quote(value: Any) -> str:
    """Return the repr, without addresses in memory, which change; for a function its name."""
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{value.__module__}.{name}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def provenance(
    networks: Mapping[str, nn.Module],
    attacks: Mapping[str, Any],
    settings: Settings,
    done: Pass,
    **more: Any,
) -> dict[str, Any]:
    """Return what is needed to repeat an evaluation, as plain values, for the file."""
    described = {
        name: {
            "class": type(network).__name__,
            "parameters": sum(p.numel() for p in network.parameters()),
            "sha256": weights_digest(network),
        }
        for name, network in networks.items()
    }
    return {
        "networks": described,
        "attacks": {name: quote(attack) for name, attack in attacks.items()},
        "readout": quote(settings.readout),
        "objective": quote(settings.objective),
        "autocast": None if settings.autocast is None else str(settings.autocast),
        "seed": settings.seed,
        "bootstrap": settings.bootstrap,
        "samples": done.data.count,
        "batch_size": done.batch_size,
        "data_sha256_sum": done.data.hexdigest(),
        "versions": versions(),
        "machine": machine(device_of(next(iter(networks.values())))),
        "command": command(),
        **more,
    }


# Tables, in the paper's units.

TEXT_HEADER = (
    "bias [1e-4]",
    "change",
    "sigma_MAD [1e-3]",
    "eta [%]",
    "change",
    "CRPS [1e-3]",
    "NLL",
)
MARKDOWN_HEADER = (
    "bias [10⁻⁴]",
    "change",
    "sigma_MAD [10⁻³]",
    "eta [%]",
    "change",
    "CRPS [10⁻³]",
    "NLL",
)
ROOM_HEADER = ("room used", "max Linf", "max L2")


def with_error(value: float | None, error: float | None, scale: float, sign: str = "") -> str:
    """Return a value and its standard error, scaled, with one decimal; n/a for none."""
    if value is None:
        return "n/a"
    shown = f"{scale * value:{sign}.1f}"
    return shown if error is None else f"{shown} ± {scale * error:.1f}"


def share(row: Row) -> str:
    """Return eta in percent with its interval."""
    return f"{100 * row.eta:.1f} ({100 * row.eta_low:.1f} to {100 * row.eta_high:.1f})"


def cells(row: Row) -> list[str]:
    """Return the row's name, with what is wrong with it, and its columns in the headers' order."""
    name = row.name + "".join(f" [{flag}]" for flag in row.flags)
    clean = row.name == CLEAN
    return [
        " ".join(name.split()),  # a line break would end the row of a Markdown table
        with_error(row.bias, row.bias_error, 1e4),
        "" if clean else with_error(row.bias_change, row.bias_change_error, 1e4, "+"),
        with_error(row.sigma_mad, row.sigma_mad_error, 1e3),
        share(row),
        "" if clean else with_error(row.eta_change, row.eta_change_error, 100, "+"),
        with_error(row.crps, None, 1e3),
        "n/a" if row.nll is None else f"{row.nll:.2f}",
    ]


def room(row: Row) -> list[str]:
    """Return how much of its room the attack used, and the largest norms of what it changed."""
    size = "" if row.name == CLEAN else "not said" if row.size is None else f"{row.size:.2f}"
    return [size, f"{row.linf:.3g}", f"{row.l2:.3g}"]


def text(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return aligned columns: names to the left, numbers to the right."""
    table = [list(header), *map(list, lines)]
    widths = [max(len(line[k]) for line in table) for k in range(len(header))]

    def join(line: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([join(table[0]), rule, *map(join, table[1:])])


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: names to the left, numbers to the right."""
    rows = [header, [":--", *["--:"] * (len(header) - 1)], *lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows
    )


def note(rows: Sequence[Row]) -> str:
    """Return the line below a table that says what its numbers are."""
    error = "; ± is the bootstrap standard error" if rows[0].bias_error is not None else ""
    return (
        f"{rows[0].n} images{error}; eta with Wilson's interval; a change is against clean, on the "
        "same galaxies."
    )


def numbers_of(rows: Sequence[Row], metric: str) -> list[float]:
    """Return one metric of several rows, or say why it is none.

    Raises
    ------
    ValueError
        If there is no such metric, or it was not computed.
    """
    known = [f.name for f in dataclasses.fields(Row) if f.name not in WORDS]
    if metric not in known:
        raise ValueError(f"no metric {metric!r}; the metrics are {known}")
    values = [getattr(row, metric) for row in rows]
    if None in values:
        raise ValueError(
            f"{metric} was not computed: an error needs bootstrap=200, a score of PDFs a "
            "readout with a PDF"
        )
    return values


def unchecked(rows: Mapping[str, Row]) -> str:
    """Return what a table without checks must say, with the attack that used its room least."""
    sizes = {name: row.size for name, row in rows.items() if row.size is not None}
    least = min(sizes, key=lambda name: sizes[name], default=None)
    used = "" if least is None else f"; least room used: {sizes[least]:.2f} ({least})"
    return f"Whether the attacks are strong enough was not checked here: see evaluate{used}."


# Files: written whole or not at all, read with a clear word on what is wrong.


def plain(value: Any) -> Any:
    """Return the value as JSON knows it: NaN and infinities become strings, which float() reads."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def floats(values: Any) -> list[Any]:
    """Return a float32 array as the shortest decimals that read back to the same float32."""
    return [plain(float(str(value))) for value in values]


def save_json(path: str | os.PathLike[str], kind: str, body: Mapping[str, Any]) -> None:
    """Write a result under a temporary name, then rename it: a crash leaves no half file."""
    head = {"format": f"advphotoz {kind}", "version": VERSION}
    content = json.dumps({**head, **plain(dict(body))}, allow_nan=False, indent=1)
    with replacing(path) as temporary:
        temporary.write_text(content + "\n", encoding="utf-8")


def load_json(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read what `save_json` wrote for the same kind of result."""
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not whole JSON ({error}): it may be cut off, or another kind of file; "
            "make it again with .save()"
        ) from error
    expected = f"advphotoz {kind}"
    found = body.get("format") if isinstance(body, dict) else None
    if not isinstance(body, dict) or found != expected:
        raise ValueError(
            f"{path} does not hold what was asked for: expected the format {expected!r}, "
            f"got {found!r}"
        )
    if body.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {body.get('version')!r} of its format and this advphotoz reads "
            f"version {VERSION}; read it with the advphotoz that wrote it, or make it again"
        )
    return body


@contextmanager
def whole(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn whatever an edited file makes of its reading into one sentence."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path} lacks a part of {what}, or was edited ({type(error).__name__}: {error}); "
            "make it again with .save()"
        ) from error


def _beside(path: str | os.PathLike[str]) -> Path:
    """Return where the PDFs of a report lie."""
    return Path(path).with_suffix(".pdf.npz")


def _pdf_digest(pdf: Mapping[str, npt.NDArray[Any]], edges: Any) -> str:
    total = hashlib.sha256(np.asarray(edges, np.float64).tobytes())
    for name, values in pdf.items():
        total.update(f"{name} {values.shape} ".encode())
        total.update(np.ascontiguousarray(values, np.float32).tobytes())
    return total.hexdigest()


def _load_pdf(path: str | os.PathLike[str], digest: Any) -> tuple[dict[str, Any], Any]:
    """Return the PDFs and edges that lie beside a report, if there were some."""
    if digest is None:
        return {}, None
    beside = _beside(path)
    if not beside.exists():
        warnings.warn(
            f"the PDFs of {path} are left out: {beside.name} is not beside it", stacklevel=3
        )
        return {}, None
    try:
        with np.load(beside, allow_pickle=False) as file:
            edges = file["edges"]
            pdf = {n.removeprefix("pdf."): file[n] for n in file.files if n.startswith("pdf.")}
        same = _pdf_digest(pdf, edges) == digest
    except Exception as error:  # a broken archive can raise almost anything
        raise ValueError(f"{beside} is damaged ({error}); make the report again") from error
    if not same:
        raise ValueError(f"{beside} is not the file that was written with {path}; save it again")
    return pdf, edges


def _array(values: list[Any]) -> npt.NDArray[np.float32]:
    return np.array([float(value) for value in values], dtype=np.float32)
