"""What an evaluation prints and saves."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from advphotoz import FGSM, PGD, LinfBall, PointEstimate
from advphotoz.evaluation import Evaluation, RobustnessCurve, TransferMatrix
from networks import Estimate, TwoBins, do_nothing, features, run, sides


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def example(**settings: Any) -> Evaluation:
    attacks = [FGSM(0.1), FGSM([0.1, 0.2, 0.1])]
    return run(TwoBins(), [sides(40)], attacks, noise=0.1, **settings)


def test_tables_are_in_the_units_of_the_paper() -> None:
    result = example(checks=False)
    first = dataclasses.replace(
        result.rows[0], bias=-0.0105, bias_error=0.0003, sigma_mad=0.066, sigma_mad_error=0.002
    )
    attacked = dataclasses.replace(
        result.rows[2],
        **{"bias_change": 0.0021, "bias_change_error": 0.0001, "eta": 0.42, "eta_low": 0.35},
        **{"eta_high": 0.5, "eta_change": 0.2, "eta_change_error": 0.03, "crps": 0.0123},
        **{"nll": -1.234, "size": 1.0, "linf": 0.1, "l2": 0.1732},
        flags=("not converged",),
    )
    result = dataclasses.replace(result, rows=(first, result.rows[1], attacked, result.rows[3]))
    lines = str(result).splitlines()
    header = "attack bias [1e-4] change sigma_MAD [1e-3] eta [%] change CRPS [1e-3] NLL room used"
    assert " ".join(lines[0].split()) == f"{header} max Linf max L2"
    assert lines[2].split()[:7] == ["clean", "-105.0", "±", "3.0", "66.0", "±", "2.0"]
    words = " ".join(lines[4].split())
    assert words.startswith("FGSM 0.1 [not converged] ")
    assert "+21.0 ± 1.0" in words
    assert words.endswith("42.0 (35.0 to 50.0) +20.0 ± 3.0 12.3 -1.23 1.00 0.1 0.173")
    assert "Wilson's interval" in lines[-1]
    assert "bootstrap standard error" in lines[-1]
    assert "bootstrap" not in str(example(checks=False, bootstrap=0))
    markdown = result.to_markdown().splitlines()
    assert len(markdown) == 2 + 4
    assert len({line.count("|") for line in markdown}) == 1
    assert "| clean | -105.0 ± 3.0 |  | 66.0 ± 2.0 |" in markdown[2]


def test_the_verdict_stands_above_the_table_and_the_checks_below() -> None:
    result = example()
    assert result.checks is not None
    text, markdown = str(result), result.to_markdown()
    assert text.startswith(result.checks.verdict)
    assert text.endswith(result.checks.listed())
    assert markdown.startswith(f"**{result.checks.verdict}**\n\n| attack |")
    assert result.checks.to_markdown().count("\n- ") == len(result.checks.checks)


def test_names_cannot_break_a_table() -> None:
    result = run(TwoBins(), [sides(20)], {"a | b": FGSM(0.1)}, checks=False)
    lines = result.to_markdown().splitlines()
    assert lines[-1].startswith(r"| a \| b |")
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1


def test_json_round_trip(tmp_path: Path) -> None:
    result = example()
    strange = dataclasses.replace(result.rows[2], nll=math.inf, crps=math.nan, bias=-math.inf)
    result = dataclasses.replace(result, rows=(*result.rows[:2], strange))
    path = tmp_path / "new folder" / "result.json"
    result.save(path)
    again = Evaluation.load(path)
    assert again == result
    assert math.isnan(again.rows[2].crps or 0)
    assert (again.rows[2].nll, again.rows[2].bias) == (math.inf, -math.inf)
    assert again.rows[0].rising is None
    for name in ("noise", "FGSM 0.1"):
        assert again.z_phot[name].tobytes() == result.z_phot[name].tobytes()
        assert again.pit[name].tobytes() == result.pit[name].tobytes()
    assert again != dataclasses.replace(result, pit={**result.pit, "noise": result.pit["clean"]})
    assert again.checks == result.checks
    assert str(again) == str(result)
    assert again.to_markdown() == result.to_markdown()
    assert again != dataclasses.replace(result, checks=None)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not legal JSON")

    body = json.loads(path.read_text(), parse_constant=refuse)
    assert body["version"] == 3
    assert body["settings"]["samples"] == 40
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_what_is_not_there_stays_so_in_a_file(tmp_path: Path) -> None:
    attacks = {"PGD": PGD(LinfBall(0.1), steps=1, step_size=0.2), "nothing": do_nothing}
    result = run(Estimate(), [features()], attacks, PointEstimate(), bootstrap=0)
    result.save(tmp_path / "result.json")
    again = Evaluation.load(tmp_path / "result.json")
    assert again == result
    assert again["PGD"].flags == result["PGD"].flags != ()
    assert again["PGD"].crps is again["PGD"].bias_error is again["nothing"].size is None
    assert again.pit == {}
    assert str(again) == str(result)


def test_a_file_names_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    example().save(path)
    text = path.read_text()
    for folder in (tmp_path, Path.cwd(), Path.home(), Path(__file__).parent):
        assert str(folder) not in text
    assert not re.search(r"""["\s=]/\w+/""", text)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    result = example()
    result.save(path)
    text = path.read_text()
    for wrong, match in (
        (text[: len(text) // 2], "cut off"),
        ("", "cut off"),
        ("[1, 2]", "does not hold what was asked for"),
        (
            text.replace('"version": 3', '"version": 2'),
            r"has version 2 of its format and this advphotoz reads version 3; .* make it again",
        ),
        (text.replace('"version": 3', '"versionn": 3'), "has version None"),
        (text.replace('"z_spec"', '"zspec"'), "lacks a part"),
        (text.replace('"pit"', '"pitt"'), "lacks a part"),
        (text.replace('"eta"', '"etta"'), "lacks a part"),
        (text.replace('"checks"', '"checkss"'), "lacks a part"),
        (text.replace('"status"', '"state"'), "lacks a part"),
    ):
        assert wrong != text
        path.write_text(wrong)
        with pytest.raises(ValueError, match=match):
            Evaluation.load(path)
    path.write_text(text)
    with pytest.raises(ValueError, match="robustness curve"):
        RobustnessCurve.load(path)
    with pytest.raises(ValueError, match="transfer matrix"):
        TransferMatrix.load(path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write"):
        result.save(tmp_path / "file" / "result.json")
    with pytest.raises(KeyError, match="no row 'PGD'; the rows are"):
        result["PGD"]
