"""What leaves for the survey's tools: PDFs, qp ensembles, tomographic bins, astropy tables."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from advphotoz import FGSM, PGD, LinfBall, PointEstimate, RedshiftBins, evaluate, metrics
from advphotoz.evaluation import Evaluation

BINS = RedshiftBins(0.0, 1.0, 20)


def galaxies(n: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    z = torch.rand(n, generator=generator)
    x = torch.cat([z[:, None], torch.randn(n, 3, generator=generator) / 5], 1)
    return x, z


class Network(nn.Module):
    """Logits that peak near the first feature."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        centres = BINS.centers.float()
        return -((x[:, :1] + 0.3 * x[:, 1:2] - centres) ** 2) / (2 * 0.1**2)


def found(**settings: Any) -> Evaluation:
    settings = {"checks": False, "progress": False, "bootstrap": 20, **settings}
    attacks = {"FGSM": FGSM(0.05), "PGD": PGD(LinfBall(0.1), steps=3)}
    x, z = galaxies()
    batches = list(zip(x.split(50), z.split(50), strict=True))
    return evaluate(Network(), batches, attacks, BINS, **settings)


@pytest.fixture(scope="module")
def result() -> Evaluation:
    return found(keep_pdf=True)


def test_pdfs_are_kept_where_asked(result: Evaluation) -> None:
    assert list(result.pdf) == [row.name for row in result.rows]
    x, z = galaxies()
    assert np.array_equal(result.pdf["clean"], BINS.pdf(Network()(x)).numpy())
    assert result.edges.tolist() == BINS.edges.tolist()
    for name, pdf in result.pdf.items():
        assert pdf.shape == (120, 20)
        assert pdf.dtype == np.float32
        np.testing.assert_allclose(metrics.pit(pdf, z, BINS), result.pit[name], atol=1e-5)
        assert metrics.crps(pdf, z, BINS) == pytest.approx(result[name].crps, rel=1e-4)
    without = found()
    assert without.pdf == {}
    assert without.edges is None
    assert [dataclasses.asdict(r) for r in without.rows] == [
        dataclasses.asdict(r) for r in result.rows
    ]


def test_pdfs_lie_beside_the_json(result: Evaluation, tmp_path: Path) -> None:
    result.save(tmp_path / "report.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json", "report.pdf.npz"]
    body = json.loads((tmp_path / "report.json").read_text())
    assert "pdf" not in body
    again = Evaluation.load(tmp_path / "report.json")
    assert again == result
    for name, pdf in result.pdf.items():
        assert np.array_equal(again.pdf[name], pdf)
    with np.load(tmp_path / "report.pdf.npz") as file:  # anyone's reader
        assert np.array_equal(file["pdf.PGD"], result.pdf["PGD"])
        assert np.array_equal(file["edges"], result.edges)
    other = dataclasses.replace(result, pdf={"clean": result.pdf["PGD"]})
    assert other != result
    other.save(tmp_path / "other.json")
    (tmp_path / "other.pdf.npz").replace(tmp_path / "report.pdf.npz")
    with pytest.raises(ValueError, match=r"report\.pdf\.npz is not the file that was written with"):
        Evaluation.load(tmp_path / "report.json")
    (tmp_path / "report.pdf.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="is damaged"):
        Evaluation.load(tmp_path / "report.json")
    (tmp_path / "report.pdf.npz").unlink()
    with pytest.warns(UserWarning, match=r"report\.pdf\.npz is not beside it"):
        alone = Evaluation.load(tmp_path / "report.json")
    assert alone.rows == result.rows
    assert alone.pdf == {}
    with pytest.raises(ValueError, match="keep_pdf=True"):
        alone.to_qp()


def test_a_readout_without_bins_has_no_pdfs_to_keep() -> None:
    x, z = galaxies()
    model = nn.Linear(4, 1)
    with pytest.raises(ValueError, match=r"keep_pdf needs a readout .* got PointEstimate\(\)"):
        evaluate(model, [(x, z)], [FGSM(0.1)], PointEstimate(), keep_pdf=True, progress=False)


@pytest.mark.filterwarnings("ignore")
def test_qp_writes_and_reads_the_ensemble(result: Evaluation, tmp_path: Path) -> None:
    qp = pytest.importorskip("qp")
    for name in ("clean", "PGD"):
        path = str(tmp_path / f"{name}.hdf5")
        result.to_qp(name).write_to(path)
        again = qp.read(path)
        assert again.npdf == 120
        assert np.array_equal(again.ancil["z_spec"], result.z_spec)
        assert np.array_equal(again.ancil["z_phot"], result.z_phot[name])
        pdf = again.objdata["pdfs"] * np.diff(result.edges)
        np.testing.assert_allclose(pdf, result.pdf[name], atol=1e-7)
        # Their numbers from their file, and ours from the evaluation.
        pit = qp.metrics.PIT(again, result.z_spec).pit_samps
        np.testing.assert_allclose(pit, result.pit[name], atol=2e-6)
        np.testing.assert_allclose(again.mean().ravel(), result.z_phot[name], atol=1e-5)
        likelihood = -np.log(again.pdf(result.z_spec[:, None])).mean()
        assert likelihood == pytest.approx(result[name].nll, rel=1e-5)
    with pytest.raises(KeyError, match="no row 'PGD-3'"):
        result.to_qp("PGD-3")


@pytest.mark.filterwarnings("ignore")
def test_point_metrics_of_a_report_equal_qp(result: Evaluation) -> None:
    """The classes that RAIL's evaluation calls."""
    qp = pytest.importorskip("qp.metrics")
    for row in result.rows:
        z_phot, z_spec = (v.astype(float) for v in (result.z_phot[row.name], result.z_spec))
        for ours, theirs in (
            (row.median_bias, qp.PointBias),
            (row.sigma_iqr, qp.PointSigmaIQR),
            (row.sigma_mad, qp.PointSigmaMAD),
            (row.outlier_fraction_desc, qp.PointOutlierRate),
        ):
            assert ours == pytest.approx(theirs().evaluate(z_phot, z_spec), abs=1e-12)


def made(z_spec: Any, **z_phot: Any) -> Evaluation:
    """An evaluation of given redshifts."""
    template = found()
    names = ("clean", *(n for n in z_phot if n != "clean"))
    rows = tuple(dataclasses.replace(template.rows[0], name=n) for n in names)
    arrays = {n: np.asarray(z_phot[n], np.float32) for n in names}
    spec = np.asarray(z_spec, np.float32)
    return dataclasses.replace(template, rows=rows, z_spec=spec, z_phot=arrays, pit={})


def test_tomographic_bins_by_hand() -> None:
    result = made(
        [0.0, 0.0, 1.0, 1.0, 1.0],
        clean=[0.1, 0.2, 0.8, 1.0, 1.5],
        shifted=[0.1, 0.6, 0.9, 1.0, 1.5],
    )
    bins = result.by_bin([0.0, 0.5, 1.0])
    assert bins.outside == 1
    low, high = bins["shifted"]
    assert (low.n, high.n) == (2, 2)  # binned by the clean redshifts; 1.0 is in the last bin
    assert low.bias == pytest.approx((0.1 + 0.6) / 2)
    assert low.bias_change == pytest.approx(0.2)
    assert low.eta == 1.0
    assert high.bias == pytest.approx(-0.1 / 2 / 2)
    assert high.bias_change == pytest.approx(0.1 / 2 / 2)
    # Binned by its own: the second galaxy, at z = 0, has moved into the upper bin.
    assert (low.n_own, high.n_own) == (1, 3)
    assert high.mean_z == pytest.approx(2 / 3)
    assert high.mean_z_shift == pytest.approx(2 / 3 - 1)
    assert low.mean_z_shift == 0.0
    clean = bins["clean"]
    assert [one.mean_z_shift for one in clean] == [0.0, 0.0]
    assert [one.bias_change_error for one in clean] == [0.0, 0.0]
    by_truth = result.by_bin([0.0, 0.5, 1.0], by="z_spec")
    assert [one.n for one in by_truth["clean"]] == [2, 3]
    assert by_truth.outside == 0
    text = str(bins)
    assert "shift of mean z" in text
    assert "1 galaxies lie in no bin" in text
    with pytest.raises(KeyError, match="no row 'none'; the rows are"):
        bins["none"]


def test_bins_add_up_to_the_whole(result: Evaluation) -> None:
    for name in ("clean", "PGD"):
        bins = result.by_bin([-1.0, 0.3, 0.6, 2.0])[name]
        n = np.array([one.n for one in bins])
        assert n.sum() == 120
        for key in ("bias", "eta", "bias_change", "eta_change"):
            parts = np.array([getattr(one, key) for one in bins])
            assert (n * parts).sum() / 120 == pytest.approx(getattr(result[name], key), abs=1e-12)
    [whole] = result.by_bin([-1.0, 2.0])["PGD"]
    assert whole.bias_change_error == pytest.approx(result["PGD"].bias_change_error, rel=1e-12)
    assert whole.sigma_mad == result["PGD"].sigma_mad
    assert whole.mean_z_shift == 0.0


def test_the_error_of_the_shift_is_the_scatter_of_samples() -> None:
    """Many samples of one distribution: their scatter, and the error that one of them states."""
    rng = np.random.default_rng(0)
    template = found(bootstrap=50)

    def shift() -> Any:
        z = rng.random(400)
        clean, other = (z + 0.05 * rng.normal(size=400) for _ in range(2))
        arrays = {n: v.astype("f4") for n, v in (("clean", clean), ("PGD", other))}
        one = dataclasses.replace(template, z_spec=z.astype("f4"), z_phot=arrays)
        return one.by_bin([0.4, 0.6])["PGD"][0]

    drawn = [shift() for _ in range(40)]
    scatter = np.std([one.mean_z_shift for one in drawn], ddof=1)
    stated = np.mean([one.mean_z_shift_error for one in drawn])
    assert stated == pytest.approx(scatter, rel=0.3)


def test_bins_without_galaxies_are_nan(result: Evaluation) -> None:
    _, empty = result.by_bin([-1.0, 2.0, 3.0])["PGD"]
    assert empty.n == 0
    assert all(math.isnan(v) for v in (empty.bias, empty.eta, empty.mean_z, empty.mean_z_shift))
    assert math.isnan(found(bootstrap=0).by_bin([-1.0, 2.0])["PGD"][0].bias_change_error)


@pytest.mark.parametrize(
    ("edges", "by", "error", "message"),
    [
        ([0.5], "clean", ValueError, "at least two and increase"),
        ([0.5, 0.5], "clean", ValueError, "at least two and increase"),
        ([5.0, 6.0], "clean", ValueError, "no galaxy lies between"),
        ([0.0, 1.0], "nobody", KeyError, "no row 'nobody'"),
    ],
)
def test_edges_that_make_no_sense(
    edges: Any, by: str, error: type[Exception], message: str, result: Evaluation
) -> None:
    with pytest.raises(error, match=message):
        result.by_bin(edges, by)


def test_astropy_tables(result: Evaluation, tmp_path: Path) -> None:
    tables = pytest.importorskip("astropy.table")
    rows = result.to_table()
    assert rows["name"].tolist() == [row.name for row in result.rows]
    assert rows["eta"].tolist() == [row.eta for row in result.rows]
    assert math.isnan(rows["size"][0])  # clean images have no size
    stars = result.galaxies()
    assert np.array_equal(stars["z_phot PGD"], result.z_phot["PGD"])
    assert np.array_equal(stars["pit clean"], result.pit["clean"])
    bins = result.by_bin([-1.0, 0.5, 2.0]).to_table()
    assert len(bins) == 2 * len(result.rows)
    for name, table in (("rows", rows), ("galaxies", stars), ("bins", bins)):
        table.write(tmp_path / f"{name}.fits")
        again = tables.Table.read(tmp_path / f"{name}.fits")
        assert len(again) == len(table)
        assert again.colnames == table.colnames
