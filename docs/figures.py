"""Make the figures of the pages anew, from results: `make figures`.

    python docs/figures.py [--demo runs/demo] [--paper runs/paper]

From a folder of `advphotoz demo`: redshifts before and after, outliers per attack, and the top of
its report, for which a Chromium is needed. From a folder of examples/reproduce_paper.py, if it is
given, those of the paper. The two pictures of simulated galaxies beside real ones are made by
benchmarks/compare_galaxies.py.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

from matplotlib.figure import Figure

from advphotoz.evaluation import Evaluation
from advphotoz.plotting import plot_attacks

DOCS = Path(__file__).resolve().parent
STATIC = DOCS / "_static"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def of_demo(demo: Path) -> None:
    """Draw what stands on the first pages."""
    shutil.copy(demo / "redshifts.png", STATIC / "demo.png")
    figure = Figure((5, 2.2), layout="constrained")
    plot_attacks(figure.subplots(), Evaluation.load(demo / "classical.json"))
    figure.savefig(STATIC / "attacks.png", dpi=200)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"no browser ({', '.join(BROWSERS)}): report.png stays as it is")
        return
    picture = f"--screenshot={STATIC / 'report.png'}"
    page = (demo / "report.html").resolve().as_uri()
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1000,760"]
    subprocess.run([browser, *options, picture, page], check=True, capture_output=True)


def of_paper(paper: Path) -> None:
    """Copy what the experiment drew."""
    for picture in (paper / "figures").glob("*.png"):
        shutil.copy(picture, DOCS / "results" / "paper" / "figures")


def main() -> None:
    """Draw what there are results for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--paper", type=Path, help="folder of reproduce_paper.py")
    args = parser.parse_args()
    if not (args.demo / "report.html").exists():
        raise SystemExit(f"{args.demo} holds no finished demo: run `make demo` first")
    of_demo(args.demo)
    if args.paper is not None:
        of_paper(args.paper)


if __name__ == "__main__":
    main()
