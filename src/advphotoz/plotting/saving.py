"""Files of a figure as journals take them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from advphotoz._checks import require
from advphotoz._files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["save_figure"]


def save_figure(fig: Figure, path: str | os.PathLike[str], dpi: int = 300) -> tuple[Path, Path]:
    """Write a figure twice: as a PDF with vectors and embedded fonts, and as a PNG.

    Parameters
    ----------
    fig : Figure
        What to write; in sizes of 3.4 inches (a column) or 7 inches (a page) nothing is scaled.
    path : str or path
        Name of both files, without an ending. Missing folders are made.
    dpi : int
        Of the PNG, and of the parts of the PDF that are pixels.

    Returns
    -------
    (Path, Path)
        The PDF and the PNG, whole or not at all.

    Raises
    ------
    ImportError
        Without matplotlib.
    OSError
        If the folder cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> from matplotlib.figure import Figure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in save_figure(Figure((1, 1)), folder + "/redshifts")]
    ['redshifts.pdf', 'redshifts.png']
    """
    matplotlib = require("matplotlib", "plot")
    stem = Path(path)
    files = (stem.with_name(f"{stem.name}.pdf"), stem.with_name(f"{stem.name}.png"))
    # Type 42: TrueType outlines. Journals refuse type 3, and type 42 stays editable. No date: the
    # same figure gives the same file.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        for file, kind, metadata in zip(
            files, ("pdf", "png"), ({"CreationDate": None}, {}), strict=True
        ):
            with replacing(file) as temporary:
                fig.savefig(temporary, format=kind, dpi=dpi, metadata=metadata)
    return files
