"""The documentation as a site: addresses that papers cite, and nothing from the network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import test_structure

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ADDRESSES = ROOT / "tests" / "doc_addresses.txt"
EXAMPLES = ROOT / "examples"
PAGES = sorted(DOCS.rglob("*.md"))
SKIPPED = ("_build", "_static", "results", "_generated")
SITE = [page for page in PAGES if page.relative_to(DOCS).parts[0] not in SKIPPED]
NO_PAGE = {"cli"}  # docs/command.md


def public_modules() -> set[str]:
    names = {test_structure.part(name) for name in test_structure.modules()}
    return {name for name in names if name and not name.startswith("_")} - NO_PAGE


def test_every_public_module_has_its_page_and_every_page_a_module() -> None:
    pages = {path.stem for path in (DOCS / "api").glob("*.md")} - {"index"}
    assert pages == public_modules()
    index = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    listed = index.split("```{toctree}")[1].split("```")[0].split()
    assert set(listed) - {":hidden:"} == pages
    for name in pages:
        text = (DOCS / "api" / f"{name}.md").read_text(encoding="utf-8")
        assert f".. automodule:: advphotoz.{name}\n" in text


def test_no_address_of_a_page_is_lost() -> None:
    """Papers cite pages: a new one is added to the list, none is taken away."""
    frozen = ADDRESSES.read_text(encoding="utf-8").split()
    now = [str(page.relative_to(DOCS).with_suffix("")) for page in SITE]
    assert sorted(set(frozen) - set(now)) == [], "these addresses are gone"
    assert sorted(set(now) - set(frozen)) == [], f"add these to {ADDRESSES.name}"


def test_every_page_is_reached_from_a_table_of_contents() -> None:
    reached = {"index"}
    for page in SITE:
        folder = page.parent.relative_to(DOCS)
        for tree in re.findall(r"```{toctree}\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            lines = [line for line in tree.split() if not line.startswith(":")]
            reached |= {str(folder / line) for line in lines}
    names = {str(page.relative_to(DOCS).with_suffix("")) for page in SITE}
    assert names - reached == set()


def test_every_picture_of_a_page_exists() -> None:
    found = 0
    for page in SITE:
        for source in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / source).exists(), f"{page.name}: {source}"
            found += 1
    assert found > 10


def test_every_picture_says_what_it_shows() -> None:
    for page in [*SITE, ROOT / "README.md"]:
        for words in re.findall(r"!\[([^]]*)\]\(", page.read_text(encoding="utf-8")):
            assert len(words) > 8, f"{page.name}: a picture without words"


def test_every_example_is_in_the_gallery() -> None:
    pages = {page.stem for page in (DOCS / "gallery").glob("*.md")} - {"index"}
    assert pages == {path.stem for path in EXAMPLES.glob("*.py")} | {"demo"}
    for name in pages - {"demo"}:  # which is a part of the command
        assert f"../../examples/{name}.py" in (DOCS / "gallery" / f"{name}.md").read_text()


def test_equations_are_rendered_by_what_is_bundled() -> None:
    settings = (DOCS / "conf.py").read_text(encoding="utf-8")
    static = DOCS / "_static"
    path = re.search(r'mathjax_path = "([^"]+)"', settings)
    assert path is not None
    assert not path[1].startswith(("http:", "https:", "//"))
    assert (static / path[1]).stat().st_size > 100_000
    assert "MIT" in (static / "katex" / "LICENSE").read_text(encoding="utf-8")
    style = (static / "katex" / "katex.min.css").read_text(encoding="utf-8")
    fonts = set(re.findall(r"fonts/([\w-]+\.woff2)", style))
    assert fonts == {font.name for font in (static / "katex" / "fonts").iterdir()}


def test_search_words_of_the_field_are_in_the_glossary() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8").lower()
    for words in ("outlier fraction", "catastrophic outlier", "eta", "nmad", "photo-z"):
        assert f"\n{words}\n" in text, words


@pytest.mark.slow
def test_the_built_site_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("furo")
    command = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "-q", "-b", "html"]
    ran = subprocess.run([*command, str(DOCS), str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    fetched = re.compile(r'<(?:script|img|iframe)[^>]*\ssrc="([^"]+)"|<link[^>]*\shref="([^"]+)"')
    for page in tmp_path.rglob("*.html"):
        for script, link in fetched.findall(page.read_text(encoding="utf-8")):
            address = script or link
            assert not re.match(r"(?:https?:)?//", address), f"{page.name}: {address}"
    assert json.loads((tmp_path / "searchindex.js").read_text()[len("Search.setIndex(") : -1])
