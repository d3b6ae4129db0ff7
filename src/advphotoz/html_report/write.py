"""From evaluations to one page: what is said, in which order, in which words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advphotoz._checks import require
from advphotoz._files import replacing
from advphotoz._version import __version__
from advphotoz.evaluation import Evaluation, Row
from advphotoz.evaluation.report import share, with_error
from advphotoz.html_report.card import ModelCard
from advphotoz.html_report.citation import bibtex
from advphotoz.html_report.pictures import evaluation_pictures, inline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "html_report", "save_html"]

CONTROLS = {"clean": "clean images", "noise": "random noise"}
TEMPLATE = Path(__file__).with_name("template.html")
# Of a verdict: the class of its box, and the words above it.
STATES = {
    "bad": "Do not trust these numbers yet",
    "open": "Not everything was checked",
    "unknown": "Nothing is known about robustness",
    "good": "Every check passed",
    "unchecked": "They were not checked",
}


@dataclass(frozen=True)
class Picture:
    """A picture of the reader's own for a report.

    Attributes
    ----------
    figure : Figure
        Of matplotlib.
    alt : str
        What it shows, for those who cannot see it.
    caption : str
        The line below it.
    """

    figure: Figure
    alt: str
    caption: str


def html_report(
    results: Evaluation | Mapping[str, Evaluation],
    *,
    title: str = "Robustness of photometric redshifts",
    question: str = "",
    cards: ModelCard | Mapping[str, ModelCard] | None = None,
    pictures: Sequence[Picture] = (),
) -> str:
    r"""Return a report as one HTML page, with its pictures inside and without any script.

    From the top: the verdict of each network, with what failed and what could not be checked; what
    was asked; tables and pictures; every check; the model card; how the numbers were made; how to
    cite. All text is escaped.

    Parameters
    ----------
    results : Evaluation or mapping of str to Evaluation
        One evaluation, or several networks by name.
    title : str
        Of the page.
    question : str
        Why the evaluation was made, in your words.
    cards : ModelCard or mapping of str to ModelCard, optional
        What the weights do not say of a network; for several networks, by the same names.
    pictures : sequence of Picture
        Figures of your own, such as `plot_attack_panel`, drawn after those of the evaluation.

    Returns
    -------
    str
        The page, in UTF-8 when written to a file.

    Raises
    ------
    ImportError
        Without jinja2 or matplotlib: ``pip install "advphotoz[report]"``.
    ValueError
        If there is no evaluation, or a card for a network that is not there.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import FGSM, RedshiftBins, evaluate
    >>> from advphotoz.html_report import html_report
    >>> model, batch = torch.nn.Linear(2, 4), (torch.randn(8, 2), torch.rand(8))
    >>> result = evaluate(model, [batch], [FGSM(0.1)], RedshiftBins(n=4), progress=False)
    >>> page = html_report(result, title="A < B")
    >>> "<title>A &lt; B</title>" in page, "<script" in page
    (True, False)
    """
    named = {"": results} if isinstance(results, Evaluation) else dict(results)
    if not named:
        raise ValueError("results must hold at least one evaluation, got none")
    by_name = {"": cards} if isinstance(cards, ModelCard) else dict(cards or {})
    if not set(by_name) <= set(named):
        raise ValueError(
            f"cards must be for the networks {list(named)}, got {list(by_name)}; with one "
            "evaluation give one ModelCard"
        )
    jinja = require("jinja2", "report")
    require("matplotlib", "report")
    environment = jinja.Environment(
        autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page: str = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        question=question,
        version=__version__,
        networks=[
            _network(name, result, by_name.get(name), number)
            for number, (name, result) in enumerate(named.items(), 1)
        ],
        pictures=[
            {"source": inline(p.figure), "alt": p.alt, "caption": p.caption} for p in pictures
        ],
        bibtex=bibtex(),
    )
    return page


def save_html(
    path: str | os.PathLike[str], results: Evaluation | Mapping[str, Evaluation], **settings: Any
) -> None:
    """Write `html_report` to a file, whole or not at all; missing folders are made.

    Parameters
    ----------
    path : str or path
        The file.
    results, **settings
        As in `html_report`, which says what is raised too.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    page = html_report(results, **settings)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _network(name: str, result: Evaluation, card: ModelCard | None, number: int) -> dict[str, Any]:
    """Return everything that the template says about one network."""
    attacked = [row for row in result.rows if row.name not in CONTROLS]
    worst = max(attacked, key=lambda row: (row.eta, row.sigma_mad), default=None)
    settings = result.settings
    card = ModelCard() if card is None else card
    title = name or card.name or "The network"
    stated = {**card.stated(), "Name": card.name or name or "not stated"}
    return {
        "id": f"network-{number}",
        "name": title,
        "verdict": _verdict(result),
        "headline": _headline(result, worst),
        "asked": _asked(result),
        "table": [_cells(row, worst) for row in result.rows],
        "errors": result.rows[0].bias_error is not None,
        "pdf": result.rows[0].nll is not None,
        "pictures": evaluation_pictures(result, worst),
        "checks": [] if result.checks is None else result.checks.checks,
        "checks_on": 0 if result.checks is None else result.checks.samples,
        "card": {**stated, **_weights(settings)},
        "provenance": _provenance(settings),
    }


def _verdict(result: Evaluation) -> dict[str, Any]:
    checks = result.checks
    if checks is None:
        return {
            "state": "unchecked",
            "title": STATES["unchecked"],
            "sentence": "The evaluation was run without checks: whether its attacks are strong "
            "enough is not known.",
            "failed": (),
            "open": (),
        }
    failed, unchecked = checks.of("FAIL"), checks.of("not checked")
    about_attacks = any(
        c.attack is not None and c.status in ("pass", "FAIL") for c in checks.checks
    )
    state = "bad" if failed else "unknown" if not about_attacks else "open" if unchecked else "good"
    sentence = checks.verdict.removeprefix("Checks: ")
    return {
        "state": state,
        "title": STATES[state],
        "sentence": sentence[:1].upper() + sentence[1:],
        "failed": failed,
        "open": unchecked,
    }


def _headline(result: Evaluation, worst: Row | None) -> str:
    clean = result["clean"]
    start = f"Of {clean.n} galaxies, {100 * clean.eta:.1f} % are outliers on clean images"
    noise = next((row for row in result.rows if row.name == "noise"), None)
    if noise is not None:
        start += f" and {100 * noise.eta:.1f} % under random noise from the same set"
    if worst is None:
        return f"{start}. No attack was run."
    return (
        f"{start}. Under the strongest attack that was run, {worst.name}, "
        f"{100 * worst.eta:.1f} % are. An attack gives a lower bound on the damage."
    )


def _asked(result: Evaluation) -> dict[str, str]:
    settings = result.settings
    asked = {"Galaxies": str(len(result.z_spec))}
    for key, words in (
        ("readout", "How the output becomes a redshift"),
        ("objective", "What is made worse, where an attack has no objective of its own"),
    ):
        if key in settings:
            asked[words] = str(settings[key])
    for name, text in dict(settings.get("attacks", {})).items():
        label = "Random noise, the control" if name == "noise" else f"Attack: {name}"
        asked[label] = str(text)
    return asked


def _cells(row: Row, worst: Row | None) -> dict[str, Any]:
    clean = row.name == "clean"
    size = "" if clean else "not said" if row.size is None else f"{row.size:.2f}"
    return {
        "name": CONTROLS.get(row.name, row.name),
        "worst": row is worst,
        "flags": row.flags,
        "eta": share(row),
        "eta_change": "" if clean else with_error(row.eta_change, row.eta_change_error, 100, "+"),
        "bias": with_error(row.bias, row.bias_error, 1e4),
        "sigma_mad": with_error(row.sigma_mad, row.sigma_mad_error, 1e3),
        "crps": with_error(row.crps, None, 1e3),
        "nll": "n/a" if row.nll is None else f"{row.nll:.2f}",
        "size": size,
        "linf": f"{row.linf:.3g}",
    }


def _weights(settings: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for network in dict(settings.get("networks", {})).values():
        found["Class"] = str(network["class"])
        found["Parameters"] = f"{network['parameters']:,}"
        found["SHA-256 of the weights"] = str(network["sha256"])
    return found


def _provenance(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return how the numbers were made, as lines."""
    versions = dict(settings.get("versions", {}))
    machine = dict(settings.get("machine", {}))
    lines = {
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Computed on": ", ".join(
            f"{key} {value}" if key == "threads" else str(value)
            for key, value in machine.items()
            if value is not None
        ),
        "Command": settings.get("command"),
        "Seed": settings.get("seed"),
        "Batch size": settings.get("batch_size"),
        "Resamples of the bootstrap": settings.get("bootstrap"),
        "Mixed precision": settings.get("autocast") or "none",
        "SHA-256 sum of the data seen": settings.get("data_sha256_sum"),
    }
    return {name: str(value) for name, value in lines.items() if value not in (None, "")}
