"""One page that holds everything: the verdict first, escaped, without scripts or addresses."""

from __future__ import annotations

import base64
import dataclasses
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from advphotoz import FGSM, PGD, LinfBall, PointEstimate, RedshiftBins, evaluate
from advphotoz._version import __version__
from advphotoz.evaluation import Evaluation
from advphotoz.html_report import ModelCard, Picture, bibtex, html_report, save_html
from networks import Estimate, features

ROOT = Path(__file__).resolve().parents[1]
BINS = RedshiftBins(n=6)
EVIL = "<script>alert('x')</script> & \"quoted\""
VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """The elements of a page, with their attributes and text; unbalanced tags are refused."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(x.flatten(1))
        return logits


def result(attacks: Any = None, **settings: Any) -> Evaluation:
    torch.manual_seed(0)
    batch = (torch.randn(20, 3, 2, 2), 0.5 * torch.rand(20))
    given = {"FGSM": FGSM(0.1)} if attacks is None else attacks
    quiet = {"progress": False, "bootstrap": 10, **settings}
    return evaluate(Net(), [batch], given, BINS, **quiet)


@pytest.fixture(scope="module")
def measured() -> Evaluation:
    torch.set_num_threads(1)
    attacks = {"FGSM": FGSM(0.5), EVIL: PGD(LinfBall(0.5), steps=3)}
    return result(attacks)


def test_the_page_needs_nothing_else(measured: Evaluation) -> None:
    text = html_report(measured)
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "background")
    ]
    assert len(addresses) >= 3
    assert all(str(a).startswith("data:image/svg+xml;base64,") for a in addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert not [n for _, a in page.elements for n in a if n.startswith("on")]
    policy = next(a["content"] for _, a in page.elements if "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy


def test_pictures_have_words_and_are_whole_svg(measured: Evaluation) -> None:
    images = [a for tag, a in Page(html_report(measured)).elements if tag == "img"]
    for image in images:
        assert len(str(image["alt"])) > 20
        svg = base64.b64decode(str(image["src"]).split(",")[1]).decode("utf-8")
        assert svg.startswith("<?xml")
        assert svg.rstrip().endswith("</svg>")
        assert "<text" not in svg  # outlines: no font is asked for
        assert "<dc:date>" not in svg
    etas = [f"{100 * row.eta:.1f} %" for row in measured.rows]
    assert all(eta in str(images[0]["alt"]) for eta in etas)


def test_the_same_evaluation_gives_the_same_page(measured: Evaluation) -> None:
    assert html_report(measured) == html_report(measured)


def test_every_name_is_escaped(measured: Evaluation) -> None:
    fields = {f.name: f"{f.name} {EVIL}" for f in dataclasses.fields(ModelCard)}
    picture = Picture(Figure((1, 1)), alt=EVIL, caption=f"caption {EVIL}")
    text = html_report(
        measured, title=EVIL, question=EVIL, cards=ModelCard(**fields), pictures=[picture]
    )
    assert "<script" not in text
    assert "alert('x')" not in text
    page = Page(text)
    for words in (*fields.values(), f"caption {EVIL}"):
        assert words in page.text
    assert [a["alt"] for tag, a in page.elements if tag == "img"][-1] == EVIL


def test_the_verdict_comes_before_any_table(measured: Evaluation) -> None:
    text = Page(html_report(measured)).text
    assert measured.checks is not None
    verdict = measured.checks.verdict.removeprefix("Checks: ")[1:]
    assert text.index(verdict) < text.index("What was asked") < text.index("Results")
    for check in measured.checks.checks:
        assert check.sentence in text


def test_what_failed_and_what_was_not_checked_is_said_first() -> None:
    def plain(model: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x + 0.1

    few = {"PGD-1": PGD(LinfBall(1.0), steps=1, step_size=0.01, keep="last"), "own": plain}
    found = result(few)
    assert found.checks is not None
    assert found.checks.of("FAIL")
    assert found.checks.of("not checked")
    page = html_report(found)
    text = Page(page).text
    first = text[: text.index("What was asked")]
    assert "Do not trust these numbers yet" in first
    for check in (*found.checks.of("FAIL"), *found.checks.of("not checked")):
        assert check.sentence in first
    assert 'class="verdict bad"' in page
    flags = [flag for row in found.rows for flag in row.flags]
    assert flags
    assert all(flag in text[text.index("Results") :] for flag in flags)


@pytest.mark.parametrize(
    ("settings", "state", "words"),
    [
        ({"attacks": {}}, "unknown", "Nothing is known about robustness"),
        ({"checks": False}, "unchecked", "They were not checked"),
        ({}, "good", "Every check passed"),
    ],
)
def test_the_verdict_is_never_better_than_what_was_tested(
    settings: dict[str, Any], state: str, words: str
) -> None:
    text = html_report(result(**settings))
    assert f'class="verdict {state}"' in text
    assert words in Page(text).text


def test_the_table_reads_on_a_phone(measured: Evaluation) -> None:
    page = Page(html_report(measured))
    cells = [a for tag, a in page.elements if tag == "td"]
    assert all(a.get("role") == "cell" for a in cells)
    assert all("data-label" in a or "words" in str(a.get("class")) for a in cells)
    roles = [a.get("role") for tag, a in page.elements if tag in ("table", "tr", "thead", "tbody")]
    assert None not in roles
    assert any(a.get("name") == "viewport" for tag, a in page.elements if tag == "meta")


def test_contrast_of_every_text_colour() -> None:
    """At least 4.5 to 1 on its background (WCAG 2 AA)."""
    template = ROOT / "src" / "advphotoz" / "html_report" / "template.html"
    style = template.read_text(encoding="utf-8").split("</style>")[0]
    inks = set(re.findall(r"(?<!-)color: (#[0-9a-f]{6})", style))
    inks |= set(re.findall(r"--(?:ink|soft): (#[0-9a-f]{6})", style))
    backs = {"#ffffff", *re.findall(r"background: (#[0-9a-f]{6})", style)}
    assert len(inks) >= 5
    assert len(backs) >= 4

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for ink in inks:
        for back in backs:
            high, low = sorted((luminance(ink), luminance(back)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, back)


def test_networks_side_by_side_with_a_card_each(measured: Evaluation) -> None:
    cards = {"after": ModelCard(defenses="Algorithm 1, f_a = 0.5")}
    text = Page(html_report({"before": measured, "after": measured}, cards=cards)).text
    start = text[: text.index("What was asked")]
    assert start.index("before") < start.index("after")
    card = text[text.index("Model card") :]
    assert "Algorithm 1, f_a = 0.5" in card
    assert "not stated" in card
    with pytest.raises(ValueError, match=r"cards must be for the networks \['a'\], got \['b'\]"):
        html_report({"a": measured}, cards={"b": ModelCard()})
    with pytest.raises(ValueError, match="at least one evaluation"):
        html_report({})


def test_it_says_how_the_numbers_were_made_and_how_to_cite(measured: Evaluation) -> None:
    page = Page(html_report(measured)).text
    network = measured.settings["networks"]["model"]
    for value in (network["sha256"], measured.settings["data_sha256_sum"], __version__):
        assert value in page
    for attack in measured.settings["attacks"].values():
        assert attack in page
    assert " ".join(bibtex().split()) in page


def test_a_network_without_a_pdf_has_no_column_of_scores() -> None:
    x, z = features()
    found = evaluate(Estimate(), [(x, z)], [FGSM(0.1)], PointEstimate(), progress=False)
    text = Page(html_report(found)).text
    assert "CRPS" not in text
    assert "n/a" not in text[text.index("Results") : text.index("How to read")]


def test_the_citation_is_the_same_everywhere() -> None:
    paper, software = bibtex().split("\n\n")
    page = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    cff = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert paper.strip() in page
    without_version = re.sub(r"\n  version .*", "", software).strip()
    assert without_version in re.sub(r"\n  version .*", "", page)
    title = re.search(r"title   = {(.*)}", software)
    assert title is not None
    assert f'"{title[1]}"' in cff
    assert f"version: {__version__}\n" in cff


def test_saved_whole_in_a_new_folder(measured: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    save_html(path, measured, title="η of ugriz")
    assert path.read_text(encoding="utf-8") == html_report(measured, title="η of ugriz")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_an_absent_package_is_one_sentence(
    measured: Evaluation, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "advphotoz\[report\]"'):
        html_report(measured)
