"""Tables of metrics in the paper's units, as plain text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from advphotoz.evaluation.row import Row

__all__ = ["cells", "markdown", "text"]

TEXT_HEADER = ("bias [1e-4]", "sigma_MAD [1e-3]", "eta [%]", "CRPS [1e-3]", "NLL", "loss")
MARKDOWN_HEADER = ("bias [10⁻⁴]", "sigma_MAD [10⁻³]", "eta [%]", "CRPS [10⁻³]", "NLL", "loss")


def with_error(value: float, error: float | None, scale: float) -> str:
    """Return a value and its standard error, scaled, with one decimal."""
    if error is None:
        return f"{scale * value:.1f}"
    return f"{scale * value:.1f} ± {scale * error:.1f}"


def cells(row: Row) -> list[str]:
    """Return the row's columns, in the order of the headers."""
    return [
        with_error(row.bias, row.bias_error, 1e4),
        with_error(row.sigma_mad, row.sigma_mad_error, 1e3),
        with_error(row.eta, row.eta_error, 100),
        f"{1e3 * row.crps:.1f}",
        f"{row.nll:.2f}",
        f"{row.objective_after:.3g}",
    ]


def norms(row: Row) -> list[str]:
    """Return the largest norms of the row."""
    return [f"{row.linf:.3g}", f"{row.l2:.3g}"]


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
    error = "; ± is the bootstrap standard error" if rows[0].eta_error is not None else ""
    return f"{rows[0].n} images{error}; loss is the mean objective, max the largest change made."
