"""HDF5 and FITS files, written by h5py and astropy: what is read is what stands there."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from advphotoz.datasets import (
    CutoutDataset,
    FITSCutouts,
    FITSFile,
    HDF5File,
    NumpyFiles,
    StoredCutouts,
)

h5py = pytest.importorskip("h5py")
fits = pytest.importorskip("astropy.io.fits")

N, BANDS, SIDE = 7, 3, 6
FLAT: dict[str, Any] = {"labels": None, "layout": "NCHW"}


def pixels(dtype: str = "f4", n: int = N) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, BANDS, SIDE, SIDE)).astype(dtype)


def redshifts(n: int = N) -> np.ndarray:
    return np.linspace(0.1, 0.7, n)


def expected(data: StoredCutouts, rows: Any, image: np.ndarray) -> bool:
    samples = data.__getitems__(rows)
    same = [
        torch.equal(sample[0], torch.from_numpy(image[r]))
        for sample, r in zip(samples, rows, strict=True)
    ]
    z = data.z[torch.tensor(rows)].tolist()
    return all(same) and z == [float(sample[-1]) for sample in samples]


# HDF5


def galaxies_ml(path: Path, image: np.ndarray | None = None, **chunks: Any) -> Path:
    """Write the layout of GalaxiesML: no E(B-V), each column a data set."""
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=pixels() if image is None else image, **chunks)
        file["specz_redshift"] = redshifts()
        file["object_id"] = np.arange(N, dtype="i8") + 2**60
        file["g_cmodel_mag"] = np.full(N, 21.5)
    return path


@pytest.mark.parametrize("chunks", [{}, {"chunks": (2, 1, 6, 6), "compression": "gzip"}])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8"])
def test_a_flat_hdf5_file(dtype: str, chunks: dict[str, Any], tmp_path: Path) -> None:
    held = pixels(dtype)
    path = galaxies_ml(tmp_path / "g.hdf5", held, **chunks)
    data = StoredCutouts(path, image="image", z="specz_redshift", ebv=None, **FLAT)
    assert repr(data) == "<StoredCutouts: 7 images of 3 x 6 x 6 pixels in g.hdf5>"
    for rows in ([3], [6, 0, 2, 1], [1, 1, 5]):
        assert expected(data, rows, held.astype("f4"))
    assert data.catalogue["object_id"].tolist() == [2**60 + k for k in range(N)]
    assert data.ebv is None
    assert len(data[0]) == 2


def test_the_multimodal_universe(tmp_path: Path) -> None:
    """Bands by name, two more inputs, redshifts of another file and order, for some galaxies."""
    path, ids = tmp_path / "001-of-001.hdf5", np.array([b"g7", b"g2", b"g5", b"g1"])
    with h5py.File(path, "w") as file:
        file["image_array"] = pixels(n=4)
        file["image_band"] = np.tile(np.array([b"des-g", b"des-r", b"des-z"]), (4, 1))
        file["image_psf_fwhm"] = np.arange(12.0).reshape(4, 3)
        file["image_ivar"] = pixels(n=4)
        file["EBV"] = [0.1, 0.2, 0.3, 0.4]
        file["object_id"] = ids
    found = {"object_id": ["g1", "g9", "g2"], "Z": [0.5, 0.9, 0.6]}
    settings: dict[str, Any] = {
        "image": "image_array",
        "bands": "image_band",
        "context": ["image_psf_fwhm"],
        "z": "Z",
        "ebv": "EBV",
    }
    data = StoredCutouts(
        path, catalogue=found, on="object_id", unmatched="drop", **settings, **FLAT
    )
    assert data.bands == ("des-g", "des-r", "des-z")
    assert data.rows.tolist() == [1, 3]
    image, ebv, psf, z = data[1]
    assert torch.equal(image, torch.from_numpy(pixels(n=4)[3]))
    assert (float(ebv), psf.tolist(), z) == (np.float32(0.4), [9.0, 10.0, 11.0], torch.tensor(0.5))
    assert set(data.catalogue) == {"image_psf_fwhm"}  # no images and no text
    with pytest.raises(ValueError, match=r"2 of 4 images .* the first is b?'?g7.*unmatched='drop'"):
        StoredCutouts(path, catalogue=found, on="object_id", **settings, **FLAT)
    loaded = data.load()
    assert isinstance(loaded, CutoutDataset)
    for one, other in zip(loaded[1], data[1], strict=True):
        assert torch.equal(one, other)
    with h5py.File(path, "a") as file:
        file["image_band"][2] = [b"des-r", b"des-g", b"des-z"]
    with pytest.raises(ValueError, match=r"differ in their bands.*des-g.*row 0.*des-r.*row 2"):
        StoredCutouts(path, catalogue=found, on="object_id", **settings, **FLAT)


def test_a_compound_data_set_in_a_group(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("survey")
        group["cube"] = pixels().transpose(0, 2, 3, 1)
        table = np.zeros(N, [("z", "f4"), ("EBV", ">f4"), ("name", "S4")])
        table["z"] = redshifts()
        group["table"] = table
    data = StoredCutouts(tmp_path / "a.h5", image="survey/cube", labels="survey/table")
    assert expected(data, [4, 2], pixels())
    assert HDF5File(tmp_path / "a.h5").names() == ["survey/cube", "survey/table"]


@pytest.mark.parametrize(("start", "workers"), [("fork", 1), ("spawn", 1)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_read_hdf5(start: str, workers: int, tmp_path: Path) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    path = galaxies_ml(tmp_path / "g.h5")
    data = StoredCutouts(path, image="image", z="specz_redshift", ebv=None, **FLAT)
    data[0]  # an open handle left here would be shared by a fork
    loader = DataLoader(data, 3, num_workers=workers, multiprocessing_context=start)
    read = torch.cat([image for image, _ in loader])
    assert torch.equal(read, torch.from_numpy(pixels()))
    assert len(pickle.dumps(data)) < 5000


def test_what_is_no_hdf5_file(tmp_path: Path) -> None:
    path = galaxies_ml(tmp_path / "g.h5")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated or no HDF5 file"):
        HDF5File(path)
    with pytest.raises(FileNotFoundError):
        HDF5File(tmp_path / "none.h5")
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"no array 'pixels', it has \['g_cmodel_mag', 'image'"):
        StoredCutouts(path, image="pixels", z="specz_redshift", **FLAT)
    with pytest.raises(ValueError, match="no data set 'x', it has"):
        HDF5File(path).column("x")
    with pytest.raises(ValueError, match=r"has the shape \(7, 3, 6, 6\).*pass layout='NCHW'"):
        StoredCutouts(path, image="image", labels=None, z="specz_redshift", ebv=None)


# FITS


def one_file(path: Path, image: np.ndarray, **table: Any) -> Path:
    columns = {"zspec": redshifts(len(image)), "EBV": np.full(len(image), 0.02), **table}
    kinds = {"f": "D", "i": "K"}
    made = [
        fits.Column(name, kinds[np.asarray(v).dtype.kind], array=np.asarray(v))
        for name, v in columns.items()
    ]
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, name="IMAGES")]
    fits.HDUList([*hdus, fits.BinTableHDU.from_columns(made, name="GALAXIES")]).writeto(path)
    return path


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_one_cube_and_its_table(dtype: str, tmp_path: Path) -> None:
    held = pixels(dtype)
    path = one_file(tmp_path / "all.fits", held, id=np.arange(N) + 2**60)
    data = StoredCutouts(path, image="IMAGES", labels="GALAXIES", z="zspec", layout="NCHW")
    for rows in ([2], [5, 0, 1, 3]):
        assert expected(data, rows, held.astype("f4"))
    assert data.z.tolist() == redshifts().astype("f4").tolist()
    assert data.catalogue["id"].tolist() == [2**60 + k for k in range(N)]
    assert FITSFile(path).names() == ["IMAGES", "GALAXIES"]
    assert len(pickle.dumps(data)) < 5000


def test_a_compressed_cube(tmp_path: Path) -> None:
    hdu = fits.CompImageHDU(pixels(), name="IMAGES", compression_type="GZIP_2", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "all.fits")
    table = {"z": redshifts()}
    data = StoredCutouts(tmp_path / "all.fits", image="IMAGES", ebv=None, catalogue=table, **FLAT)
    assert expected(data, [5, 1], pixels())


def test_scaled_integers_are_what_they_stand_for(tmp_path: Path) -> None:
    whole = np.arange(N * BANDS * SIDE**2, dtype="i2").reshape(N, BANDS, SIDE, SIDE)
    hdu = fits.ImageHDU(whole, name="IMAGES")
    hdu.header["BSCALE"], hdu.header["BZERO"] = 0.5, 10.0
    hdus = fits.HDUList([fits.PrimaryHDU(), hdu])
    hdus.writeto(tmp_path / "a.fits")
    with fits.open(tmp_path / "a.fits") as file:
        truth = np.array(file["IMAGES"].data, dtype="f4")
    assert truth.max() > 300
    data = StoredCutouts(
        tmp_path / "a.fits", image="IMAGES", ebv=None, catalogue={"z": redshifts()}, **FLAT
    )
    assert expected(data, [6, 2], truth)
    fits.PrimaryHDU(whole).writeto(tmp_path / "b.fits")
    with pytest.raises(TypeError, match="'PRIMARY' in b.fits must be floating point, got int16"):
        StoredCutouts(tmp_path / "b.fits", image="PRIMARY", ebv=None, **FLAT)


def test_a_masked_redshift_is_refused_by_its_row(tmp_path: Path) -> None:
    from astropy.table import MaskedColumn, Table

    table = Table({"zspec": MaskedColumn(redshifts(), mask=[k == 4 for k in range(N)])})
    table["count"] = MaskedColumn(np.arange(N), mask=[k == 2 for k in range(N)])
    hdus = fits.HDUList([fits.PrimaryHDU(pixels()), fits.table_to_hdu(table)])
    hdus.writeto(tmp_path / "a.fits")
    data = StoredCutouts(
        tmp_path / "a.fits", image="PRIMARY", labels="1", z="zspec", ebv=None, layout="NCHW"
    )
    with pytest.raises(ValueError, match=r"z of the galaxy in row 4 of .*data\.z\.isfinite"):
        data.__getitems__([0, 4])
    assert torch.equal(data[0][0], torch.from_numpy(pixels()[0]))
    assert data.catalogue["count"].isnan().tolist() == [k == 2 for k in range(N)]


def stamps(folder: Path, image: np.ndarray, extensions: str = "") -> None:
    """Write a file per galaxy: bands as extensions, or as planes of one cube."""
    folder.mkdir(exist_ok=True)
    for k, one in enumerate(image):
        if extensions:
            planes = [fits.ImageHDU(p, name=b) for p, b in zip(one, extensions, strict=True)]
            for b, plane in enumerate(planes):
                plane.header["MAGZERO"] = 25.0 + b
            hdus = [fits.PrimaryHDU(), *planes]
        else:
            hdus = [fits.PrimaryHDU(one)]
        hdus[0].header["REDSHIFT"] = redshifts()[k]
        hdus[0].header["ZP"] = 25.0 + k
        fits.HDUList(hdus).writeto(folder / f"{k + 100}.fits")


def test_a_file_per_galaxy_with_bands_as_extensions(tmp_path: Path) -> None:
    stamps(tmp_path / "cut", pixels(), "GRI")
    source = FITSCutouts(tmp_path / "cut", bands=["I", "G", "R"], keywords=["REDSHIFT", "MAGZERO"])
    assert source.names() == ["image", "id", "REDSHIFT", "MAGZERO"]
    assert source.column("id").tolist() == [str(100 + k) for k in range(N)]
    data = StoredCutouts(source, image="image", z="REDSHIFT", ebv=None, **FLAT)
    assert expected(data, [3, 0], pixels()[:, [2, 0, 1]])
    # 27 mag of zero point is I's: a count of 1 is 10^-1.8 nanomaggies.
    scaled = StoredCutouts(
        source, image="image", z="REDSHIFT", ebv=None, zero_point="MAGZERO", **FLAT
    )
    factor = 10 ** (0.4 * (22.5 - np.array([27.0, 25.0, 26.0])))[:, None, None]
    np.testing.assert_allclose(scaled[3][0], pixels()[3][[2, 0, 1]] * factor, rtol=1e-6)


@pytest.mark.parametrize("given", [25.0, [25.0, 26.0, 27.0], "ZP"])
def test_zero_points_make_nanomaggies(given: Any, tmp_path: Path) -> None:
    stamps(tmp_path / "cut", pixels())
    source = FITSCutouts(tmp_path / "cut", keywords=["REDSHIFT", "ZP"])
    data = StoredCutouts(source, image="image", z="REDSHIFT", ebv=None, zero_point=given, **FLAT)
    magnitude = 27.0 if given == "ZP" else np.reshape(given, (-1, 1, 1))  # of galaxy 2
    # A magnitude stays what it is: m = zp - 2.5 log10(counts) = 22.5 - 2.5 log10(nanomaggies).
    counts, flux = np.abs(pixels()[2]), np.abs(data.__getitems__([4, 2])[1][0].numpy())
    np.testing.assert_allclose(
        magnitude - 2.5 * np.log10(counts), 22.5 - 2.5 * np.log10(flux), atol=1e-5
    )
    assert torch.equal(data.load().image[2], data[2][0])


@pytest.mark.parametrize("given", [[25.0, 26.0], float("nan"), []])
def test_zero_points_that_make_no_sense(given: Any, tmp_path: Path) -> None:
    path = galaxies_ml(tmp_path / "g.h5")
    with pytest.raises(ValueError, match="zero_point must be a magnitude, or one for each of 3"):
        StoredCutouts(path, image="image", z="specz_redshift", ebv=None, zero_point=given, **FLAT)


def test_a_file_per_galaxy_joined_to_a_catalogue(tmp_path: Path) -> None:
    stamps(tmp_path / "cut", pixels())
    order = np.random.default_rng(3).permutation(N)
    table = {"objid": 100 + order, "z": redshifts()[order], "EBV": order / 100}
    data = StoredCutouts(
        FITSCutouts(tmp_path / "cut"), image="image", catalogue=table, on=("id", "objid"), **FLAT
    )
    assert data.z.tolist() == redshifts().astype("f4").tolist()
    assert data.ebv.tolist() == (np.arange(N) / 100).astype("f4").tolist()
    assert expected(data, [3, 0, 6], pixels())


def test_a_pixel_that_is_none_names_its_file(tmp_path: Path) -> None:
    held = pixels()
    held[5, 1, 2, 3] = np.nan
    stamps(tmp_path / "cut", held)
    source = FITSCutouts(tmp_path / "cut", keywords=["REDSHIFT"])
    data = StoredCutouts(source, image="image", z="REDSHIFT", ebv=None, **FLAT)
    with pytest.raises(ValueError, match=r"row 5, the file .*105\.fits.*\(1, 2, 3\)"):
        data.__getitems__([2, 5])


def test_a_blank_pixel_is_refused(tmp_path: Path) -> None:
    """FITS marks a missing pixel of an integer image with BLANK."""
    whole = np.ones((1, BANDS, SIDE, SIDE), "i2")
    whole[0, 2, 0, 1] = -99
    hdu = fits.PrimaryHDU(whole)
    hdu.header["BLANK"], hdu.header["BSCALE"] = -99, 0.5
    hdu.writeto(tmp_path / "a.fits")
    data = StoredCutouts(
        tmp_path / "a.fits", image="PRIMARY", ebv=None, catalogue={"z": [0.1]}, **FLAT
    )
    with pytest.raises(ValueError, match=r"pixel that is NaN .* \(2, 0, 1\)"):
        data[0]


def test_fits_files_that_make_no_sense(tmp_path: Path) -> None:
    folder = tmp_path / "cut"
    with pytest.raises(FileNotFoundError, match="is no folder"):
        FITSCutouts(folder)
    folder.mkdir()
    with pytest.raises(ValueError, match=r"holds no file that ends with \.fits"):
        FITSCutouts(folder)
    stamps(folder, pixels(), "GRI")
    with pytest.raises(ValueError, match=r"100\.fits holds one plane .*name the extensions"):
        FITSCutouts(folder)
    with pytest.raises(ValueError, match=r"lacks an extension .*\['PRIMARY', 'G', 'R', 'I'\]"):
        FITSCutouts(folder, bands=["G", "Z"])
    with pytest.raises(ValueError, match=r"100\.fits has no keyword 'Z'"):
        FITSCutouts(folder, bands=["G"], keywords=["Z"])
    with pytest.raises(ValueError, match=r"no column 'z', they have \['id'\]"):
        FITSCutouts(folder, bands=["G"]).column("z")
    with pytest.raises(ValueError, match="2 files are called '100'"):
        FITSCutouts([folder / "100.fits", folder / "100.fits"], bands=["G"])
    (folder / "103.fits").unlink()
    wide = [fits.ImageHDU(np.zeros((4, 4), "f4"), name=b) for b in "GRI"]
    fits.HDUList([fits.PrimaryHDU(), *wide]).writeto(folder / "103.fits")
    data = StoredCutouts(
        FITSCutouts(folder, bands=list("GRI")),
        image="image",
        ebv=None,
        catalogue={"z": redshifts()},
        **FLAT,
    )
    data[0]
    with pytest.raises(ValueError, match=r"103\.fits holds an image of shape \(3, 4, 4\)"):
        data[3]
    path = one_file(tmp_path / "all.fits", pixels())
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(ValueError, match=r"all\.fits is truncated; fetch"):
        FITSFile(path)
    path.write_text("image, z")
    with pytest.raises(ValueError, match="truncated or no FITS file"):
        FITSFile(path)


# Catalogues


def joined(tmp_path: Path, ids: Any, table: Any, on: Any = "id", **settings: Any) -> StoredCutouts:
    n = len(np.asarray(ids))
    np.savez(tmp_path / "a.npz", x=pixels(n=n), id=np.asarray(ids))
    return StoredCutouts(
        tmp_path / "a.npz", image="x", ebv=None, catalogue=table, on=on, **settings, **FLAT
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([3, 1, 2], [1, 2, 3]),
        (np.array([2**60 + 3, 2**60 + 1, 2**60 + 2]), np.array([2**60 + k for k in (1, 2, 3)])),
        (np.array([3, 1, 2], "u8"), np.array([1, 2, 3], "i4")),
        (np.array([2**63 + 3, 2**63 + 1, 2**63 + 2], "u8"), [str(2**63 + k) for k in (1, 2, 3)]),
        (np.array(["c", "a", "b"]), np.array([b"a", b"b", b"c"])),
        ([3, 1, 2], np.array(["1", "2", "3"])),
    ],
)
def test_identifiers_match(ours: Any, theirs: Any, tmp_path: Path) -> None:
    table = {"id": np.roll(theirs, 1), "z": np.roll([0.1, 0.2, 0.3], 1)}  # 3, 1, 2
    data = joined(tmp_path, ours, table)
    assert [round(float(z), 6) for z in data.z] == [0.3, 0.1, 0.2]
    assert data.rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("ids", "table", "error", "message"),
    [
        (
            [1, 2],
            {"id": [1, 1, 2], "z": [0.1] * 3},
            ValueError,
            "must differ, but 1 come again.* 1",
        ),
        ([1, 2], {"id": [5, 6], "z": [0.1] * 2}, ValueError, "2 of 2 images have no row"),
        ([1.0, 2.0], {"id": [1, 2], "z": [0.1] * 2}, TypeError, "'id' of the images.*float64"),
        ([1, 2], {"z": [0.1] * 2}, ValueError, r"catalogue has no column 'id' .*\['z'\]"),
        ([1, 2], {"id": [1, 2], "z": [0.1]}, ValueError, "columns of one length"),
        ([1, 2], [0.1, 0.2], TypeError, "catalogue must be a table.* got list"),
        ([1, 2], {"id": [1, 2], "zz": [0.1] * 2}, ValueError, r"no column 'z'.*\['id', 'zz'\]"),
    ],
)
def test_catalogues_that_make_no_sense(
    ids: Any, table: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        joined(tmp_path, ids, table)


def test_a_catalogue_in_the_order_of_the_images(tmp_path: Path) -> None:
    assert joined(tmp_path, [4, 5], {"z": [0.5, 0.25]}, on=None).z.tolist() == [0.5, 0.25]
    with pytest.raises(ValueError, match=r"3 rows and a\.npz 2 images; name the identifier"):
        joined(tmp_path, [4, 5], {"z": [0.5, 0.25, 0.1]}, on=None)
    with pytest.raises(ValueError, match="there is no catalogue"):
        joined(tmp_path, [4, 5], None)


def test_a_column_of_the_catalogue_counts_before_that_of_the_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=pixels(n=2), z=[0.1, 0.2])
    data = StoredCutouts(
        tmp_path / "a.npz", image="x", ebv=None, catalogue={"z": [0.3, 0.4]}, **FLAT
    )
    assert data.z.tolist() == np.array([0.3, 0.4], "f4").tolist()


# The fast layout


def test_written_to_the_fast_layout_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advphotoz.datasets.stored.BLOCK", 2 * 4 * BANDS * SIDE**2)
    stamps(tmp_path / "cut", pixels(), "GRI")
    source = FITSCutouts(tmp_path / "cut", bands=list("GRI"), keywords=["REDSHIFT", "MAGZERO"])
    data = StoredCutouts(
        source,
        image="image",
        z="REDSHIFT",
        ebv=None,
        zero_point="MAGZERO",
        context=["MAGZERO"],
        **FLAT,
    ).subset([6, 1, 4])
    data.to_npz(tmp_path / "fast.npz")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["fast.npz"]
    again = StoredCutouts.from_npz(tmp_path / "fast.npz")
    memory = CutoutDataset.from_npz(tmp_path / "fast.npz")
    assert again.context == memory.context == ("MAGZERO",)
    for k in range(3):
        for one, two, three in zip(data[k], again[k], memory[k], strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, three)
    with np.load(tmp_path / "fast.npz") as file:  # another reader than ours
        assert file["image"].shape == (3, BANDS, SIDE, SIDE)
        assert np.array_equal(file["image"][1], data[1][0])
    # And what a data set in memory wrote.
    memory.to_npz(tmp_path / "memory.npz")
    assert torch.equal(StoredCutouts.from_npz(tmp_path / "memory.npz")[2][0], data[2][0])


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path) -> None:
    held = pixels()
    held[5, 0, 0, 0] = np.inf
    path = galaxies_ml(tmp_path / "g.h5", held)
    data = StoredCutouts(path, image="image", z="specz_redshift", ebv=None, **FLAT)
    with pytest.raises(ValueError, match="row 5"):
        data.to_npz(tmp_path / "fast.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["g.h5"]


def test_in_memory_without_ebv_and_with_context() -> None:
    image, z = torch.zeros(3, 2, 4, 4), torch.tensor([0.1, 0.2, 0.3])
    data = CutoutDataset(image, None, z, {"psf": [1, 2, 3]}, context=["psf"])
    assert [v.tolist() for v in data.subset([2])[0][1:]] == [3.0, z[2].item()]
    batch = next(iter(DataLoader(data, 2)))
    assert batch[1].tolist() == [1.0, 2.0]
    assert batch[1].dtype == torch.float32
    with pytest.raises(ValueError, match=r"context .* out of \['psf'\], got \['seeing'\]"):
        CutoutDataset(image, None, z, {"psf": [1, 2, 3]}, context=["seeing"])


# Memory


GROWTH = """
import sys
from pathlib import Path
from advphotoz.datasets import FITSCutouts, StoredCutouts
from torch.utils.data import DataLoader

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

cases = ("stamps", "image", "cut"), ("hdf5", "image", "g.h5"), ("cube", "PRIMARY", "c.fits")
for kind, image, path in cases:
    source = FITSCutouts(path) if kind == "stamps" else path
    n = len(list(Path(path).iterdir())) if kind == "stamps" else 1000
    settings = dict(image=image, labels=None, ebv=None, layout="NCHW", catalogue={"z": [0.1] * n})
    data = StoredCutouts(source, **settings)
    few = data.subset(range(64))
    few.to_npz("fast.npz")
    list(DataLoader(few, 32))
    before = resident()
    for _ in DataLoader(data, 32):
        pass
    data.to_npz("fast.npz")
    streamed, before = resident() - before, resident()
    held = data.load()
    print(kind, streamed / held.image.nbytes, (resident() - before) / held.image.nbytes)
    del held
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_far_below_the_size_of_the_file(tmp_path: Path) -> None:
    one = np.random.default_rng(0).normal(size=(50, 5, 64, 64)).astype("f4")
    (tmp_path / "cut").mkdir()
    for k in range(400):
        fits.PrimaryHDU(one[k % 50]).writeto(tmp_path / "cut" / f"{k}.fits")
    with h5py.File(tmp_path / "g.h5", "w") as file:
        held = file.create_dataset("image", (1000, 5, 64, 64), "f4", chunks=(1, 5, 64, 64))
        for low in range(0, 1000, 50):
            held[low : low + 50] = one
    fits.PrimaryHDU(np.tile(one, (20, 1, 1, 1))).writeto(tmp_path / "c.fits")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", GROWTH],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    for line in ran.stdout.splitlines():
        kind, streamed, loaded = line.split()
        assert float(streamed) < 0.25, line
        if kind != "cube":  # below the peak of the one before
            assert float(loaded) > 0.7, line


def test_a_source_of_ones_own(tmp_path: Path) -> None:
    """Anything with the five members of the protocol is a source."""

    class InMemory:
        name = "mine"

        def __init__(self) -> None:
            self.held = {"x": pixels(), "z": redshifts()}

        def names(self) -> list[str]:
            return list(self.held)

        def header(self, name: str) -> Any:
            return self.held[name].shape, self.held[name].dtype

        def column(self, name: str) -> np.ndarray:
            return self.held[name]

        def rows(self, name: str, numbers: np.ndarray) -> np.ndarray:
            return self.held[name][numbers]

        def where(self, row: int) -> str:
            return f"row {row} of mine"

    data = StoredCutouts(InMemory(), image="x", ebv=None, **FLAT)
    assert expected(data, [4, 1], pixels())
    assert NumpyFiles(tmp_path).names() == []
