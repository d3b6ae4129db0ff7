"""Write what there is so far: report.md to read, tables.json to compare."""

from __future__ import annotations

from pathlib import Path

from .findings import decide
from .results import Results
from .steps import write_json, write_text
from .tables import TABLES, markdown

__all__ = ["write_report"]

UNITS = (
    "Values are in the paper's units. ± is the standard deviation over the seeds where there is "
    "more than one, else the bootstrap standard error, for eta half the width of Wilson's interval."
)


def write_report(out: Path) -> None:
    """Write report.md and tables.json from the steps that are done; no table waits for another."""
    results = Results(out)
    settings = results.settings
    scale = settings["scale"]
    simulated = str(settings["data"]).startswith("simulated")
    setting = (
        f"{'Simulated galaxies' if simulated else 'Galaxies of the given file'}. Scale "
        f"`{scale['name']}`: {scale['n_train']} galaxies for each training, {scale['epochs']} "
        f"epochs, Inception of width {scale['inception_width']}, CNN of width "
        f"{scale['cnn_width']}; images of {scale['size']} x {scale['size']} pixels; "
        f"Algorithm 1 crafts with PGD of {scale['craft_steps']} steps; "
        f"{scale['n_attack']} galaxies attacked."
    )
    parts = ["# Campagne 2020, reproduced", setting, UNITS]
    if scale["name"] == "smoke":
        parts.append("This scale only tests that every step runs; its numbers mean nothing.")
    findings = decide(results)
    if findings:
        table = [[f.claim, f.verdict, f.number] for f in findings]
        parts += ["## Findings", markdown((["the paper says", "here", "eta in %"], table), "---")]
    body = {}
    for title, make in TABLES.items():
        try:
            table = make(results)
        except KeyError:
            continue  # a step is still to come
        body[title] = {"head": table[0], "rows": table[1]}
        parts += [f"## {title}", markdown(table)]
    write_json(out / "tables.json", {"findings": [vars(f) for f in findings], "tables": body})
    write_text(out / "report.md", "\n\n".join(parts) + "\n")
