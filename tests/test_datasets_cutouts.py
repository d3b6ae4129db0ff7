"""CutoutDataset: what goes in comes out, and what is wrong is refused with a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from advphotoz.datasets import CutoutDataset


def arrays(n: int = 6) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.normal(size=(n, 4, 7, 7)).astype(np.float32),
        "ebv": rng.random(n).astype(np.float32),
        "z": np.arange(n, dtype=np.float32) / n,
    }


def test_samples_and_batches() -> None:
    a = arrays()
    data = CutoutDataset(**a)
    image, ebv, z = data[2]
    assert torch.equal(image, torch.from_numpy(a["image"][2]))
    assert ebv == a["ebv"][2]
    assert z == a["z"][2]
    batches = list(DataLoader(data, batch_size=4))
    assert [tuple(part.shape) for part in batches[1]] == [(2, 4, 7, 7), (2,), (2,)]
    assert len(data) == 6
    assert repr(data) == "<CutoutDataset: 6 images of 4 x 7 x 7 pixels>"


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "f8"])
def test_arrays_of_any_float_become_float32(dtype: str) -> None:
    a = arrays()
    data = CutoutDataset(a["image"].astype(dtype), a["ebv"].astype(dtype), a["z"].astype("f8"))
    assert data.image.dtype == data.ebv.dtype == data.z.dtype == torch.float32
    expected = a["image"].astype(dtype).astype("f4")
    assert np.array_equal(data.image.numpy(), expected)


def test_memory_is_shared_where_it_can_be_and_strided_or_locked_arrays_are_taken() -> None:
    a = arrays()
    assert CutoutDataset(**a).image.data_ptr() == a["image"].ctypes.data
    backwards = CutoutDataset(a["image"][::-1], a["ebv"], a["z"])
    assert np.array_equal(backwards.image.numpy(), a["image"][::-1])
    a["image"].flags.writeable = False
    assert np.array_equal(CutoutDataset(**a).image.numpy(), a["image"])


def test_lists_and_integer_redshifts_are_numbers_too() -> None:
    data = CutoutDataset(torch.zeros(2, 1, 3, 3), [0, 0], [1, 2])
    assert torch.equal(data.z, torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": np.zeros((6, 4, 7, 7), int)}, TypeError, "image must be floating point"),
        ({"image": torch.zeros(6, 4, 7, 7).int()}, TypeError, "image must be floating point"),
        ({"image": np.zeros((6, 4, 7))}, ValueError, r"\(N, bands, height, width\).*\(6, 4, 7\)"),
        ({"image": np.zeros((0, 4, 7, 7))}, ValueError, "none of them 0"),
        ({"ebv": np.zeros(5)}, ValueError, r"ebv must hold one number per image.*\(6,\).*\(5,\)"),
        ({"z": np.zeros((6, 1))}, ValueError, r"z must hold one number per image.*\(6, 1\)"),
        ({"ebv": [0, 0, np.inf, 0, 0, 0]}, ValueError, r"ebv must be finite.*1 of its 6.*\(2,\)"),
        ({"z": [0, np.nan, 0, np.nan, 0, 0]}, ValueError, r"z must be finite.*2 of its 6.*\(1,\)"),
        ({"z": ["a"] * 6}, TypeError, "z must hold real numbers"),
        ({"z": [1e40] * 6}, ValueError, "z as float32 must be finite"),
        ({"ebv": torch.zeros(6, dtype=torch.cfloat)}, TypeError, "ebv must hold real numbers"),
        ({"catalogue": {"mag": np.zeros((5, 5))}}, ValueError, r"'mag' must have 6 rows.*\(5, 5\)"),
        ({"catalogue": {"ra": [np.nan] * 6}}, ValueError, "ra must be finite"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        CutoutDataset(**{**arrays(), **change})


def test_pixels_that_are_not_finite_are_counted_and_located() -> None:
    a = arrays()
    a["image"][3, 1, 2, 0] = np.nan
    a["image"][4, 0, 0, 0] = np.inf
    with pytest.raises(ValueError, match=r"image must be finite, but 2 of .* \(3, 1, 2, 0\)"):
        CutoutDataset(**a)


def test_subset_takes_the_columns_along_and_copies() -> None:
    a = arrays()
    data = CutoutDataset(**a, catalogue={"mag": np.arange(12).reshape(6, 2)})
    part = data.subset([4, 1])
    assert torch.equal(part.z, data.z[[4, 1]])
    assert torch.equal(part.catalogue["mag"], torch.tensor([[8.0, 9.0], [2.0, 3.0]]))
    part.image.zero_()
    assert data.image[4].abs().sum() > 0
    assert torch.equal(data.subset(data.z > 0.4).z, data.z[data.z > 0.4])
    with pytest.raises(IndexError):
        data.subset([6])


def test_split_gives_every_galaxy_to_one_part() -> None:
    data = CutoutDataset(**arrays(101))
    state = torch.get_rng_state()
    parts = data.split(0.6, 0.2, 0.2, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(part) for part in parts] == [61, 20, 20]
    assert torch.equal(torch.cat([part.z for part in parts]).sort().values, data.z)
    again = data.split(0.6, 0.2, 0.2, seed=4)
    assert all(torch.equal(a.z, b.z) for a, b in zip(parts, again, strict=True))
    assert not torch.equal(parts[0].z, data.split(0.6, 0.2, 0.2, seed=5)[0].z)


@pytest.mark.parametrize("fractions", [(), (0.5, 0.4), (1.2, -0.2), (1.0, 0.0), (float("nan"),)])
def test_split_refuses_what_does_not_add_up(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="positive and add up to 1"):
        CutoutDataset(**arrays()).split(*fractions)


def test_split_refuses_an_empty_part() -> None:
    with pytest.raises(ValueError, match="6 galaxies cannot be split"):
        CutoutDataset(**arrays()).split(0.99, 0.01)


def test_npz_round_trip(tmp_path: Path) -> None:
    data = CutoutDataset(**arrays(), catalogue={"mag": np.ones((6, 4))})
    data.to_npz(tmp_path / "a.npz")
    back = CutoutDataset.from_npz(str(tmp_path / "a.npz"))
    for name in ("image", "ebv", "z"):
        assert torch.equal(getattr(back, name), getattr(data, name))
    assert torch.equal(back.catalogue["mag"], data.catalogue["mag"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_interrupted_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = CutoutDataset(**arrays())
    data.to_npz(tmp_path / "a.npz")

    def half(file: Any, **_: Any) -> None:
        file.write(b"PK half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half)
    for name in ("a.npz", "b.npz"):
        with pytest.raises(KeyboardInterrupt):
            data.to_npz(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    assert torch.equal(CutoutDataset.from_npz(tmp_path / "a.npz").image, data.image)


def test_npz_written_by_numpy_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **arrays(), names=np.array(["x"] * 6))
    data = CutoutDataset.from_npz(tmp_path / "a.npz")
    assert len(data) == 6
    assert data.catalogue == {}


def broken(path: Path, how: str) -> None:
    np.savez(path, **arrays())
    whole = path.read_bytes()
    if how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "one byte":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    elif how == "text":
        path.write_text("image, ebv, z")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "single array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif how == "pickle":
        np.savez(path, **{**arrays(), "z": np.array([None] * 6)})


@pytest.mark.parametrize(
    "how", ["truncated", "one byte", "text", "empty", "single array", "pickle"]
)
def test_broken_files_are_named(tmp_path: Path, how: str) -> None:
    path = tmp_path / "mine.npz"
    broken(path, how)
    with pytest.raises(ValueError, match=r"mine\.npz cannot be read as an \.npz file"):
        CutoutDataset.from_npz(path)


def test_missing_key_and_missing_file(tmp_path: Path) -> None:
    a = arrays()
    np.savez(tmp_path / "a.npz", image=a["image"], z=a["z"])
    with pytest.raises(ValueError, match=r"it has no 'ebv' among its keys \['image', 'z'\]"):
        CutoutDataset.from_npz(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError):
        CutoutDataset.from_npz(tmp_path / "b.npz")


def test_real_cutouts_with_four_bands_and_an_odd_size(shared_data: Path) -> None:
    with np.load(shared_data / "legacy_griz_23x23_50.npz") as file:
        data = CutoutDataset(file["raw"], file["ebv"], file["z"], {"ra": file["ra"]})
    assert data.image.shape == (50, 4, 23, 23)
    assert data.image.min() < 0  # untouched: the raw cutouts have negative pixels
    assert 0.03 < data.z.min() < data.z.max() < 0.6
