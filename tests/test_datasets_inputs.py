"""Arrays as astronomers have them: masked, big-endian, reversed, empty, of any precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advphotoz._arrays import as_numpy, as_tensor, check_unmasked, constants_like
from advphotoz.datasets import CutoutDataset, StoredCutouts, random_dihedral
from advphotoz.datasets.selection import row_numbers

N = 6
RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(N, 2, 3, 3)).astype(np.float32)
Z = np.arange(N, dtype=np.float32)


def numpy_masked(values: Any, mask: Any) -> Any:
    return np.ma.array(values, mask=mask)


def astropy_column(values: Any, mask: Any) -> Any:
    return pytest.importorskip("astropy.table").MaskedColumn(values, mask=mask)


def astropy_masked(values: Any, mask: Any) -> Any:
    return pytest.importorskip("astropy.utils.masked").Masked(values, mask=mask)


def list_of_rows(values: Any, mask: Any) -> Any:
    return [np.ma.array(value, mask=m) for value, m in zip(values, mask, strict=True)]


def torch_masked(values: Any, mask: Any) -> Any:
    return torch.masked.masked_tensor(torch.from_numpy(np.array(values)), torch.from_numpy(~mask))


MASKED = [numpy_masked, astropy_column, astropy_masked, list_of_rows, torch_masked]
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors:UserWarning")


@pytest.fixture
def memory() -> CutoutDataset:
    return CutoutDataset(IMAGE, np.zeros(N), Z, {"mag": RNG.normal(size=(N, 2))})


@pytest.fixture
def stored(memory: CutoutDataset, tmp_path: Path) -> StoredCutouts:
    memory.to_npz(tmp_path / "a.npz")
    return StoredCutouts(tmp_path / "a.npz", image="image", labels=None, ebv="ebv", layout="NCHW")


@pytest.fixture(params=["memory", "stored"])
def data(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def entrances() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    zeros = np.zeros(N)
    return {
        "image": (IMAGE, lambda v: CutoutDataset(v, zeros, Z).image),
        "ebv": (Z, lambda v: CutoutDataset(IMAGE, v, Z).ebv),
        "z": (Z, lambda v: CutoutDataset(IMAGE, zeros, v).z),
        "mag": (Z, lambda v: CutoutDataset(IMAGE, zeros, Z, {"mag": v}).catalogue["mag"]),
        "values": (Z, as_tensor),
    }


@pytest.mark.parametrize("masked", MASKED)
@pytest.mark.parametrize("name", list(entrances()))
def test_masked_values_are_refused(name: str, masked: Callable[[Any, Any], Any]) -> None:
    values, read = entrances()[name]
    mask = np.zeros(values.shape, bool)
    mask.reshape(N, -1)[[2, 4], -1] = True
    with pytest.raises(
        ValueError, match=f"{name} must hold no masked values, but 2 are masked, the first in row 2"
    ):
        read(masked(values, mask))
    got = read(masked(values, np.zeros_like(mask)))
    assert type(got) is torch.Tensor
    assert np.array_equal(got, values)


def test_every_kind_of_mask_is_read() -> None:
    with pytest.raises(ValueError, match="values must .* but 1 is masked, the first in row 0"):
        as_numpy(np.ma.masked)
    with pytest.raises(ValueError, match="1 is masked, the first in row 1"):
        as_tensor([0.5, np.ma.masked])
    with pytest.raises(ValueError, match="3 are masked, the first in row 1"):
        as_tensor([[1.0, 2.0, 3.0], np.ma.masked_all(3)])
    check_unmasked(np.ma.masked_invalid([1.0, 2.0]))  # a mask of its own, of False alone

    class Series:  # like pandas, whose `mask` is a method
        def mask(self) -> None: ...

    check_unmasked(Series())


def test_a_column_of_a_table_and_a_cut_on_it(data: Any) -> None:
    """A cut on a masked column is a masked cut: under the mask it has any value."""
    table = pytest.importorskip("astropy.table").Table(
        {"r": np.ma.array(Z, mask=Z == 3)}, masked=True
    )
    with pytest.raises(ValueError, match="indices must hold no masked values, but 1 is masked"):
        data.subset(table["r"] < 4)
    assert data.subset((table["r"] < 4).filled(False)).z.tolist() == [0, 1, 2]
    assert data.subset(np.ma.array([2, 1])).z.tolist() == [2, 1]


def test_a_table_is_a_catalogue() -> None:
    table = pytest.importorskip("astropy.table").Table({"r": Z, "g": np.ma.array(Z, mask=Z < 0)})
    data = CutoutDataset(IMAGE, table["r"], table["r"], table)
    assert {name: column.tolist() for name, column in data.catalogue.items()} == {
        "r": Z.tolist(),
        "g": Z.tolist(),
    }
    table["g"].mask[5] = True
    with pytest.raises(ValueError, match="g must hold no masked values.*first in row 5"):
        CutoutDataset(IMAGE, Z, Z, table)
    for records in (np.zeros(N, [("r", "f4")]), [Z]):
        with pytest.raises(TypeError, match="catalogue must be a dict of columns, .* got"):
            CutoutDataset(IMAGE, Z, Z, records)  # type: ignore[arg-type]


KINDS = ["<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "<i2", ">i4", ">i8", "u1", ">u2", "<u4", ">u8"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["forward", "reversed", "every other", "read-only", "Fortran"])
def test_arrays_of_any_number_and_layout(kind: str, order: str) -> None:
    whole = (np.arange(4 * N).reshape(2 * N, 2) % 50).astype(kind)
    if order == "Fortran":
        whole = np.asfortranarray(whole)
    values = {"reversed": whole[N - 1 :: -1], "every other": whole[::2]}.get(order, whole[:N])
    values.flags.writeable = order != "read-only"
    expected = values.astype("f4")
    tensor = as_tensor(values)
    assert torch.equal(tensor.float(), torch.from_numpy(expected))
    assert tensor.is_floating_point() == (values.dtype.kind == "f")
    if values.dtype.kind == "f":
        assert tensor.element_size() == values.dtype.itemsize
    elif values.dtype.kind == "u":  # torch computes little in unsigned integers beyond 8 bits
        assert tensor.dtype == (torch.uint8 if values.dtype.itemsize == 1 else torch.int64)
    data = CutoutDataset(IMAGE, values[:, 0], values[:, 1], {"mag": values})
    for got, column in (
        (data.ebv, expected[:, 0]),
        (data.z, expected[:, 1]),
        (data.catalogue["mag"], expected),
    ):
        assert got.dtype == torch.float32
        assert np.array_equal(got, column)
    if values.dtype.kind == "f":
        image = np.broadcast_to(values[:, :, None, None], (N, 2, 3, 3))
        got = CutoutDataset(image, Z, Z).image
        assert np.array_equal(got, np.broadcast_to(expected[:, :, None, None], (N, 2, 3, 3)))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.zeros(N, np.longdouble), TypeError, "real numbers of at most 64 bits, got .*astype"),
        (np.zeros(N, complex), TypeError, "real numbers of at most 64 bits, got complex128"),
        (torch.zeros(N, dtype=torch.cfloat), TypeError, "real numbers, got torch.complex64"),
        (np.array(["a"] * N), TypeError, "real numbers of at most 64 bits, got <U1"),
        (np.array([None] * N), TypeError, "real numbers of at most 64 bits, got object"),
        (np.zeros(N, [("z", "f4")]), TypeError, "real numbers of at most 64 bits, got"),
        (np.full(N, 2**63, "u8"), ValueError, r"below 2\^63 .* got 9223372036854775808"),
        ([[1.0], [1.0, 2.0]] * 3, ValueError, "real numbers, or a list of numbers or of rows of"),
    ],
)
def test_what_torch_cannot_take_is_refused_with_a_sentence(
    values: Any, error: type[Exception], message: str
) -> None:
    if np.finfo(np.longdouble).bits == 64 and "longdouble" in repr(values.dtype):
        pytest.skip("long double is double here")
    for read, name in (
        (as_tensor, "values"),
        (lambda v: CutoutDataset(IMAGE, Z, v), "z"),
        (lambda v: CutoutDataset(IMAGE, Z, Z, {"ra": v}), "ra"),
    ):
        with pytest.raises(error, match=rf"{name} must .*{message}"):
            read(values)


def test_lists_of_numbers_strings_and_tensors() -> None:
    with pytest.raises(ValueError, match="values must be an array of real numbers.*'a'"):
        as_tensor(["a"])
    assert as_tensor([1, 2]).dtype == as_tensor(3).dtype == torch.float64
    images = [torch.full((1, 2, 2), float(k), requires_grad=True) for k in range(2)]
    assert CutoutDataset(images, [0, 0], [0, 1]).image[1].tolist() == [[[1, 1], [1, 1]]]
    assert torch.equal(as_tensor(torch.eye(2).to_sparse()), torch.eye(2))


def test_constants_take_the_dtype_of_a_tensor() -> None:
    assert constants_like(torch.ones(2, dtype=torch.float64), Z := torch.zeros(1).half()).dtype == (
        Z.dtype
    )


def test_identifiers_keep_their_digits(tmp_path: Path) -> None:
    """float32 knows 24 bits; an identifier of the SDSS has 19 digits."""
    long, short = np.arange(N) + 2**60 + 1, np.arange(N)
    for kind in ("<i8", ">u8"):
        data = CutoutDataset(IMAGE, Z, Z, {"id": long.astype(kind), "n": short.astype(kind)})
        data.to_npz(tmp_path / "a.npz")
        for copy in (data, data.subset([1, 0]), CutoutDataset.from_npz(tmp_path / "a.npz")):
            chosen = [1, 0] if len(copy) == 2 else list(range(N))
            assert copy.catalogue["id"].tolist() == long[chosen].tolist()
            assert copy.catalogue["n"].dtype == torch.float32
    settings: dict[str, Any] = {"image": "image", "labels": None, "ebv": "ebv", "layout": "NCHW"}
    read = StoredCutouts(tmp_path / "a.npz", **settings)
    assert read.load().catalogue["id"].tolist() == long.tolist()
    edge = CutoutDataset(IMAGE, Z, Z, {"n": short + 2**24 - N + 1, "m": -short - 2**24})
    assert [value.dtype for value in edge.catalogue.values()] == [torch.float32, torch.int64]
    # The dtype of a column does not depend on the galaxies that are chosen.
    assert edge.subset([0]).catalogue["m"].dtype == torch.int64


@pytest.mark.parametrize(
    "indices",
    [
        np.array([1, 3, 4])[::-1],
        np.array([4, 3, 1], ">i4"),
        np.array([4, 3, 1], "u1"),  # torch takes bytes for a mask
        np.array([4, 3, 1], "u8"),
        torch.tensor([4, 3, 1], dtype=torch.uint8),
        torch.tensor([4, 3, 1]),
        [np.int64(4), torch.tensor(3), 1],
        (-2, -3, -5),
        range(4, 5),
    ],
)
def test_positions_in_any_form(indices: Any, data: Any) -> None:
    expected = [4, 3, 1][: len(indices)]
    part = data.subset(indices)
    assert part.z.tolist() == expected
    assert part.catalogue["mag"].tolist() == data.catalogue["mag"][expected].tolist()
    assert torch.equal(part[0][0], data[4][0])


def test_positions_from_the_end_are_counted_from_the_start() -> None:
    assert row_numbers([-1, 0, -N], N).tolist() == [N - 1, 0, 0]


@pytest.mark.parametrize(
    "mask",
    [
        (Z < 4)[::-1],
        (Z >= 2).tolist(),
        torch.from_numpy(Z >= 2),
        np.repeat(Z >= 2, 2)[::2],
    ],
)
def test_masks_in_any_form(mask: Any, data: Any) -> None:
    assert data.subset(mask).z.tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([], ValueError, r"at least one galaxy, by a list or a mask, got \(0,\) of 6"),
        (np.array([], int), ValueError, "at least one galaxy"),
        (torch.zeros(0, dtype=torch.int64), ValueError, "at least one galaxy"),
        (np.zeros(N, bool), ValueError, r"at least one galaxy.*\(0,\) of 6"),
        (2, ValueError, r"by a list or a mask, got \(\) of 6"),
        (np.zeros((2, 2), int), ValueError, r"by a list or a mask, got \(2, 2\) of 6"),
        (np.ones(N - 1, bool), IndexError, "length 5 does not match the 6 galaxies"),
        (np.ones(1, bool), IndexError, "length 1 does not match the 6 galaxies"),
        ([True] * (N + 1), IndexError, "length 7 does not match the 6 galaxies"),
        ([0, N], IndexError, "position 6 is out of range for 6 galaxies"),
        ([-N - 1], IndexError, "position -7 is out of range for 6 galaxies"),
        ([0.0, 1.0], TypeError, "integers or booleans, got float64"),
        ([1, np.nan], TypeError, "integers or booleans, got float64"),
        (np.array([2**63], "u8"), ValueError, r"indices must be below 2\^63"),
        (slice(2), TypeError, r"indices must be a list.*got slice\(None, 2, None\); .*range"),
        (None, TypeError, "indices must be a list, array or tensor of integers.*got None"),
        ("0", TypeError, "indices must be a list, array or tensor of integers.*got '0'"),
        (["0"], TypeError, "indices must hold real numbers"),
    ],
)
def test_positions_that_make_no_sense(
    indices: Any, error: type[Exception], message: str, data: Any
) -> None:
    with pytest.raises(error, match=message):
        data.subset(indices)


def test_batches_are_checked_like_subsets(stored: StoredCutouts) -> None:
    rows = np.array([3, 1])[::-1]
    assert [z for _, _, z in stored.__getitems__(rows)] == [1, 3]  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="integers or booleans, got float64"):
        stored[1.5]  # type: ignore[index]
    with pytest.raises(IndexError, match="length 2 does not match"):
        stored.__getitems__([True, False])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([0.5, 0.5],), TypeError, r"fractions must be numbers such as 0.8, 0.2, got \[0.5, 0.5\]"),
        (("0.5", 0.5), TypeError, "fractions must be numbers such as 0.8, 0.2, got '0.5'"),
        ((True,), TypeError, "fractions must be numbers"),
        ((np.float32(0.5), float("inf")), ValueError, "add up to 1"),
    ],
)
def test_fractions_that_make_no_sense(
    arguments: Any, error: type[Exception], message: str, data: Any
) -> None:
    with pytest.raises(error, match=message):
        data.split(*arguments)


@pytest.mark.parametrize("seed", [1.0, None, "1", True])
def test_seeds_that_make_no_sense(seed: Any, data: Any) -> None:
    with pytest.raises(TypeError, match="seed must be an integer"):
        data.split(0.5, 0.5, seed=seed)
    assert torch.equal(
        data.split(0.5, 0.5, seed=np.int64(1))[0].z, data.split(0.5, 0.5, seed=1)[0].z
    )


def test_columns_of_no_width(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", cube=IMAGE, z=Z, EBV=Z, none=np.zeros((N, 0), "u8"))
    data = StoredCutouts(tmp_path / "a.npz", labels=None, layout="NCHW")
    assert data.catalogue["none"].shape == (N, 0)


def test_dihedral_takes_tensors_of_any_dtype() -> None:
    for dtype in (torch.float16, torch.int64, torch.uint8, torch.bool):
        x = torch.arange(18).reshape(2, 1, 3, 3).to(dtype)
        y = random_dihedral(x)
        assert torch.equal(y.flatten(1).sort().values, x.flatten(1).sort().values)
    assert random_dihedral(torch.zeros(0, 5, 4, 4)).shape == (0, 5, 4, 4)
    assert random_dihedral(torch.full((3, 1, 2, 2), torch.nan)).isnan().all()


def test_dihedral_refuses_what_is_no_tensor_or_generator() -> None:
    for x in (IMAGE, IMAGE.tolist(), np.ma.array(IMAGE), None):
        with pytest.raises(TypeError, match="x must be a torch.Tensor, got"):
            random_dihedral(x)  # type: ignore[arg-type]
    for generator in (0, np.random.default_rng(0)):
        with pytest.raises(TypeError, match="generator must be a torch.Generator or None, got"):
            random_dihedral(torch.zeros(1, 1, 2, 2), generator)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x must hold no masked values, but 2 are masked"):
        random_dihedral(
            torch_masked(np.zeros((1, 1, 2, 2)), np.array([[[[True, False], [True, False]]]]))
        )
