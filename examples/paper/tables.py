"""The paper's three tables, and those that it describes in words, from the results in a folder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .plan import ALONE, DEFENDED, JUDGE, MATRICES, SIX, STRONG
from .results import Results, in_units

__all__ = ["TABLES", "Table", "markdown"]

Table = tuple[list[str], list[list[str]]]

ROWS1 = (
    "noise 0.01",
    "noise 0.1",
    "FGSM",
    "PGD-10",
    "PGD-10, random start",
    "PGD-20",
    "PGD-20, random start",
    "L2-PGD-40",
    "L2-PGD-40, per band",
)
# What the text of the paper still has of Table 1, for Iref; Table 2, and Table 3.
PAPER1 = {
    "sigma_mad": {"clean": "11", "FGSM": "66", "PGD-10": "82", "noise 0.1": "≈ 1.5 x clean"},
    "eta": {"clean": "1", "FGSM": "42", "PGD-10": "59", "noise 0.1": "≈ 3 x clean"},
}
PAPER2 = {
    0: "-0.3/-105, 11/66, 1/42",
    5: "-20/-40, 11/9, 1/4",
    10: "40/-25, 11/8, 1/2",
    20: "-6/23, 11/8, 1/1",
}
PAPER3 = {"Iref": "-0.3/-/-, 11/66/82, 1/42/59", "pgd-50-i4": "-21/-32/-32, 15/24/25, 2/6/6"}
NAMES3 = {
    "Iref": "Iref (classical)",
    "pgd-50": "Inception",
    "pgd-50-fc0": "fc0 of 2000",
    "pgd-50-i3": "two i3",
    "pgd-50-i4": "wide i4",
}
SHOWN = ("clean", "FGSM", "PGD-10")
METRICS = ("bias", "sigma_mad", "eta")
HEADS = {"bias": "bias [1e-4]", "sigma_mad": "sigma_MAD [1e-3]", "eta": "eta [%]"}


def _table1(results: Results, metric: str) -> Table:
    """Iref's images, shown to all six."""
    lines = []
    for attack in ("clean", *ROWS1):
        matrix = results.matrix("FGSM" if attack == "clean" else attack)
        row = matrix["clean" if attack == "clean" else "Iref"]
        cells = [str(in_units(row[name], metric)) for name in SIX]
        lines.append([attack, *cells, PAPER1[metric].get(attack, "")])
    return ["Iref's images", *SIX, "paper, Iref"], lines


def _matrix(results: Results, attack: str) -> Table:
    matrix = results.matrix(attack)
    lines = [
        [made, *(str(in_units(matrix[made][shown], "eta")) for shown in SIX)]
        for made in ("clean", *SIX)
    ]
    return ["made for \\ shown to", *SIX], lines


def _cells(results: Results, name: str, rows: tuple[str, ...]) -> list[str]:
    return [
        " / ".join(str(results.number(name, row, metric)) for row in rows) for metric in METRICS
    ]


def _table2(results: Results) -> Table:
    lines = []
    for share in (0, 5, 10, 20):
        name = f"fgsm-{share:02d}" if share else "Iref"
        cells = _cells(results, name, ("clean", "FGSM"))
        pgd = str(results.number(name, "PGD-10", "eta"))
        count = str(len(results.seeds(name)))
        lines.append([f"{share} %", *cells, pgd, count, PAPER2[share]])
    head = [f"{HEADS[m]} clean / FGSM" for m in METRICS]
    return ["f_a, FGSM", *head, "eta PGD-10 [%]", "seeds", "paper, clean/FGSM"], lines


def _table3(results: Results) -> Table:
    lines = []
    for name, words in NAMES3.items():
        cells = _cells(results, name, SHOWN)
        parameters = f"{results.parameters(name):,}"
        count = str(len(results.seeds(name)))
        lines.append([words, parameters, *cells, count, PAPER3.get(name, "")])
    head = [f"{HEADS[m]} clean / FGSM / PGD-10" for m in METRICS]
    return ["50 % PGD", "parameters", *head, "seeds", "paper"], lines


def _sweep(results: Results) -> Table:
    lines = []
    for share in (0, 5, 10, 20, 50):
        name = f"pgd-{share:02d}" if share else "Iref"
        rows = [results.evaluation(name)[row] for row in SHOWN]
        cells = [" / ".join(str(in_units(row, m)) for row in rows) for m in METRICS[1:]]
        lines.append([f"{share} %", *cells])
    return ["f_a, PGD-10", *(f"{HEADS[m]} clean / FGSM / PGD-10" for m in METRICS[1:])], lines


def _strongest(results: Results) -> Table:
    rows = [*SHOWN, *STRONG]
    lines = []
    for name in ALONE:
        cells = [str(results.number(name, row, metric)) for metric in METRICS[1:] for row in rows]
        lines.append([name, *cells, str(len(results.seeds(name)))])
    head = [f"{HEADS[metric]} {row}" for metric in METRICS[1:] for row in rows]
    return ["network", *head, "seeds"], lines


def _judged(results: Results) -> Table:
    [judge] = JUDGE
    lines = []
    for name in ALONE:
        found = results.judged(name)
        numbers = [in_units(found[row], m) for m in METRICS[1:] for row in ("clean", judge)]
        said = "none" if found.checks is None else found.checks.verdict
        lines.append([name, *map(str, numbers), said.removeprefix("Checks: ")])
    head = [f"{HEADS[m]} {row}" for m in METRICS[1:] for row in ("clean", "standard attack")]
    return ["network", *head, "checks"], lines


def _transfer(results: Results) -> Table:
    """Compare Iref's images with the network's own: transfer must not win."""
    matrix = results.matrix("defended")
    lines = []
    for name in DEFENDED:
        own = in_units(results.evaluation(name)["PGD-10"], "eta")
        shown = in_units(matrix["Iref"][name], "eta")
        clean = in_units(matrix["clean"][name], "eta")
        worse = shown.value > own.value
        verdict = "gradients masked" if worse else "no sign of masking"
        lines.append([name, str(clean), str(shown), str(own), verdict])
    return ["eta [%]", "clean", "made for Iref", "made for itself", "reading"], lines


def _calibration(results: Results) -> Table:
    lines = []
    for name in ALONE:
        evaluation = results.evaluation(name)
        crps = [f"{1e3 * evaluation[row].crps:.1f}" for row in SHOWN]
        ends = [100 * np.mean(np.abs(evaluation.pit[row] - 0.5) > 0.49) for row in SHOWN]
        lines.append([name, " / ".join(crps), " / ".join(f"{end:.0f}" for end in ends)])
    head = ["CRPS [1e-3]", "PIT below 0.01 or above 0.99 [%], 2 if calibrated"]
    return ["clean / FGSM / PGD-10", *head], lines


def _colours(results: Results) -> Table:
    found = results.study("colours")
    names = list(next(iter(found.values())))
    lines = [
        [network, *(f"{1e3 * changes[name]:.1f}" for name in names)]
        for network, changes in found.items()
    ]
    return ["median change of g - i [mmag]", *names], lines


TABLES: dict[str, Callable[[Results], Table]] = {
    "Table 1, sigma_MAD [1e-3]": lambda results: _table1(results, "sigma_mad"),
    "Table 1, eta [%]": lambda results: _table1(results, "eta"),
    **{
        f"Table 1, the full matrix under {attack}, eta [%]": (
            lambda results, attack=attack: _matrix(results, attack)
        )
        for attack in MATRICES
    },
    "Table 2": _table2,
    "Table 3": _table3,
    "The sweep over f_a with PGD-10 (Section 4.3)": _sweep,
    "The strongest attack": _strongest,
    "The standard attack": _judged,
    "Transfer from Iref against white box, PGD-10": _transfer,
    "Calibration under attack": _calibration,
    "What an attack does to colours": _colours,
}


def markdown(table: Table, align: str = "---:") -> str:
    """Return a table as Markdown; `align` is for all columns but the first."""
    head, lines = table
    rows = [head, ["---", *[align] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
