"""The Python blocks of the README and of the documentation run, so that they cannot rot."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from advphotoz import models

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = ["README.md", "docs/getting-started.md"]


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def what_the_reader_has() -> dict[str, Any]:
    """Return the names that the pages say the reader brings: a network and arrays."""
    generator = torch.Generator().manual_seed(0)
    return {
        "model": models.cnn(image_size=16, width=0.05),
        "image": torch.randn(8, 5, 16, 16, generator=generator).numpy(),
        "ebv": torch.rand(8, generator=generator).numpy() / 10,
        "z": torch.rand(8, generator=generator).numpy() / 2,
    }


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_from_top_to_bottom(
    page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    names = what_the_reader_has()
    found = blocks(page)
    assert len(found) >= 2
    for number, block in enumerate(found, 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    printed = capsys.readouterr().out
    assert "FGSM" in printed
    assert "PGD" in printed


def test_the_five_lines_are_the_same_on_both_pages() -> None:
    first = [next(b for b in blocks(page) if "evaluate(" in b) for page in PAGES]
    assert first[0] == first[1]
    assert len([line for line in first[0].splitlines() if line.strip()]) <= 5


@pytest.mark.parametrize("page", sorted(p.name for p in (ROOT / "docs" / "guide").glob("*.md")))
def test_the_code_of_the_guide_is_python(page: str) -> None:
    for number, block in enumerate(blocks(f"docs/guide/{page}"), 1):
        compile(block, f"{page}, block {number}", "exec")


def test_the_demo_table_has_its_place() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    marks = [readme.find(f"<!-- demo-table:{end} -->") for end in ("start", "end")]
    assert -1 < marks[0] < marks[1]
