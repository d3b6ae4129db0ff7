"""Tables: files written by pyarrow, astropy and h5py, and data sets of features from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advphotoz.datasets import StoredCutouts, TableDataset, read_table

arrow = pytest.importorskip("pyarrow")
tables = pytest.importorskip("astropy.table")
h5py = pytest.importorskip("h5py")

IDS = np.array([2**60 + 3, 2**60 + 1, 2**60 + 2])
G, R = np.array([21.5, np.nan, 20.25]), np.array([21.0, 20.5, 19.75])
NAMES = ["a", "bb", "a"]


def written(kind: str, folder: Path) -> Path:
    """Write the table by a library other than ours: g misses its second value."""
    path = folder / f"t.{kind}"
    if kind == "csv":
        from pyarrow import csv

        held = arrow.table(
            {"id": IDS, "g": arrow.array(G, from_pandas=True), "r": R, "name": NAMES}
        )
        csv.write_csv(held, path)
    elif kind == "parquet":
        from pyarrow import parquet

        held = arrow.table(
            {"id": IDS, "g": arrow.array(G, from_pandas=True), "r": R, "name": NAMES}
        )
        parquet.write_table(held, path)
    elif kind == "hdf5":  # as tables_io writes: a group with a data set per column
        with h5py.File(path, "w") as file:
            group = file.create_group("photometry")
            group["id"], group["g"], group["r"], group["name"] = IDS, G, R, NAMES
    else:
        g = tables.MaskedColumn(np.nan_to_num(G), mask=np.isnan(G))
        held = tables.Table({"id": IDS, "g": g, "r": R, "name": NAMES})
        if kind == "h5":
            held.write(path, path="photometry", serialize_meta=False)
        else:
            held.write(path)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet", "fits", "ecsv", "hdf5"])
def test_every_kind_of_file_holds_the_same_table(kind: str, tmp_path: Path) -> None:
    found = read_table(written(kind, tmp_path))
    assert list(found) == sorted(found) if kind == "hdf5" else ["id", "g", "r", "name"]
    assert found["id"].tolist() == IDS.tolist()  # to the last digit
    for name, truth in (("g", G), ("r", R)):
        assert found[name].dtype.isnative
        assert not np.ma.isMaskedArray(found[name])
        assert np.array_equal(found[name], truth, equal_nan=True)
    assert found["name"].astype(str).tolist() == NAMES
    some = read_table(tmp_path / f"t.{kind}", ["r"])
    assert list(some) == ["r"]
    with pytest.raises(ValueError, match=r"no column 'i', it has \["):
        read_table(tmp_path / f"t.{kind}", ["i"])


def test_a_table_that_astropy_writes_to_hdf5(tmp_path: Path) -> None:
    tables.Table({"id": IDS, "r": R}).write(tmp_path / "t.h5", path="photometry")
    found = read_table(tmp_path / "t.h5")
    assert found["id"].tolist() == IDS.tolist()
    tables.Table({"id": IDS}).write(tmp_path / "t.h5", path="other", append=True)
    with pytest.raises(ValueError, match=r"2 tables \['other', 'photometry'\]; name one: table="):
        read_table(tmp_path / "t.h5")
    assert list(read_table(tmp_path / "t.h5", table="photometry")) == ["id", "r"]


@pytest.mark.filterwarnings("ignore")  # of tables_io's own
@pytest.mark.parametrize("kind", ["hdf5", "fits", "pq"])
def test_what_tables_io_writes_and_reads(kind: str, tmp_path: Path) -> None:
    tables_io = pytest.importorskip("tables_io", reason="it comes with qp")
    columns = {"g": np.arange(5.0), "z": np.linspace(0, 1, 5), "id": 2**60 + np.arange(5)}
    tables_io.write(columns, str(tmp_path / "table"), kind)
    [path] = tmp_path.iterdir()
    ours, theirs = read_table(path), tables_io.read(str(path))
    if not hasattr(theirs, "items"):
        theirs = theirs.to_pandas()
    for name, column in columns.items():
        assert np.array_equal(ours[name], column)
    both = [TableDataset(table, ["g"], "z", context=["id"]) for table in (ours, theirs)]
    assert [x.tolist() for x in both[0][3]] == [x.tolist() for x in both[1][3]]


def test_a_table_that_pandas_wrote_is_told(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file["axis0"], file["block0_values"] = np.arange(3), np.arange(3)
    with pytest.raises(ValueError, match=r"pandas.read_hdf\(path\)"):
        read_table(tmp_path / "t.h5", ["z"])


def test_missing_whole_numbers_stay_masked(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,z\n1152921504606846979,0.5\n,0.25\n")
    found = read_table(tmp_path / "t.csv")
    assert found["id"].mask.tolist() == [False, True]
    assert found["id"][0] == 2**60 + 3
    images = np.zeros((1, 2, 4, 4), "f4")
    np.savez(tmp_path / "a.npz", x=images, id=IDS[:1])
    with pytest.raises(ValueError, match="'id' of the catalogue is masked in row 1"):
        StoredCutouts(
            tmp_path / "a.npz",
            image="x",
            labels=None,
            ebv=None,
            layout="NCHW",
            catalogue=tmp_path / "t.csv",
            on="id",
        )


def test_lists_of_one_length_are_columns_of_several_numbers(tmp_path: Path) -> None:
    from pyarrow import parquet

    held = arrow.table({"mag": [[1.0, 2.0], [3.0, 4.0]], "z": [0.1, 0.2], "odd": [[1.0], [2.0, 3]]})
    parquet.write_table(held, tmp_path / "t.parquet")
    data = TableDataset(tmp_path / "t.parquet", ["mag"], "z")
    assert data.x.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(ValueError, match=r"'odd' .* have the lengths \{1, 2\}|not all of one len"):
        read_table(tmp_path / "t.parquet", ["odd"])


def test_broken_tables(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_table(tmp_path / "t.csv")
    path = written("parquet", tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="truncated or no Parquet file"):
        read_table(path)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n1,2,3\n")
    with pytest.raises(ValueError, match="no table with commas"):
        read_table(tmp_path / "t.csv")


def features(**changes: Any) -> dict[str, Any]:
    return {
        "g": [21.0, 22.0, 23.0],
        "r": [20.0, 21.0, 22.0],
        "E": [0.1, 0.2, 0.3],
        "z": R,
        **changes,
    }


def test_features_context_and_redshift() -> None:
    for table in (features(), tables.Table(features())):
        data = TableDataset(table, ["r", "g"], "z", context=["E"])
        x, ebv, z = data[2]
        assert x.tolist() == [22.0, 23.0]
        assert (float(ebv), float(z)) == (np.float32(0.3), 19.75)
    x, z = TableDataset(features(), ["g"], "z")[0]
    assert (x.tolist(), float(z)) == ([21.0], 21.0)
    part = data.subset([2, 0])
    assert part.rows.tolist() == [2, 0]
    assert torch.equal(part[0][0], data[2][0])
    assert part.context[0].tolist() == data.context[0][[2, 0]].tolist()
    first, second = data.split(0.67, 0.33, seed=1)
    assert sorted(first.rows.tolist() + second.rows.tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    "bad", [[1.0, np.nan, 3.0], [1.0, np.inf, 3.0], np.ma.MaskedArray([1, 2, 3], [0, 1, 0])]
)
def test_missing_values_name_their_rows(bad: Any) -> None:
    with pytest.raises(
        ValueError, match=r"1 of 3 rows lack a value .*: rows 1; by column \{'g': 1\}.*'drop'"
    ):
        TableDataset(features(g=bad), ["g", "r"], "z")
    data = TableDataset(features(g=bad), ["g", "r"], "z", missing="drop")
    assert data.rows.tolist() == [0, 2]
    assert data.x.tolist() == [[1.0, 20.0], [3.0, 22.0]]
    assert len(TableDataset(features(g=bad), ["r"], "z")) == 3  # a column that nobody asked for


def test_a_file_of_features(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows 1; by column \{'g': 1\}"):
        TableDataset(written("csv", tmp_path), ["g", "r"], "r")
    assert TableDataset(tmp_path / "t.csv", ["g"], "r", missing="drop").rows.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((features(), ["i"], "z"), ValueError, r"no column 'i', it has \['g', 'r', 'E', 'z'\]"),
        ((features(), "gr", "z"), TypeError, r"lists of names"),
        ((features(z=NAMES), ["g"], "z"), TypeError, "'z' must hold real numbers"),
        ((features(z=np.zeros((3, 2))), ["g"], "z"), ValueError, "one redshift per row"),
        ((features(z=[1.0]), ["g"], "z"), ValueError, "columns of one length"),
        ((features(g=[np.nan] * 3), ["g"], "z"), ValueError, "3 of 3 rows"),
        ((3, ["g"], "z"), TypeError, "table must be a table"),
    ],
)
def test_tables_that_make_no_sense(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TableDataset(*given)
