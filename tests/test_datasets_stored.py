"""StoredCutouts: what is read from the file is what stands there, and memory stays small."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from advphotoz.datasets import CutoutDataset, StoredCutouts

N = 9
OURS: dict[str, Any] = {"image": "image", "labels": None, "ebv": "ebv", "layout": "NCHW"}


def cube(dtype: str = "<f4", n: int = N) -> np.ndarray:
    """Return pixels as Pasquet et al. store them, bands last."""
    return np.random.default_rng(0).normal(size=(n, 6, 6, 5)).astype(dtype)


def labels(n: int = N, **columns: Any) -> np.ndarray:
    rng = np.random.default_rng(1)
    fields = {
        "specObjID": np.arange(n).astype("u8") + 2**60 + 1,
        "class": np.full(n, "GALAXY"),
        "z": rng.random(n),
        "EBV": rng.random(n).astype(">f4"),
        "dered_petro_r": rng.normal(17, 1, n).astype("f4"),
        **columns,
    }
    kinds = [(k, np.asarray(v).dtype, np.shape(v)[1:]) for k, v in fields.items()]
    table = np.zeros(n, dtype=kinds)
    for key, value in fields.items():
        table[key] = value
    return table


def write(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **{"cube": cube(), "labels": labels(), **arrays})
    return path


@pytest.fixture
def stored(tmp_path: Path) -> StoredCutouts:
    return StoredCutouts(write(tmp_path / "sdss.npz"))


def in_memory() -> CutoutDataset:
    table = labels()
    image = np.ascontiguousarray(cube().transpose(0, 3, 1, 2))
    return CutoutDataset(image, table["EBV"], table["z"])


def same(batch: Any, data: CutoutDataset, rows: Any) -> bool:
    parts = zip(batch, (data.image, data.ebv, data.z), strict=True)
    return all(torch.equal(got, expected[rows]) for got, expected in parts)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_pixels_are_float32_whatever_the_file_holds(
    dtype: str, layout: str, tmp_path: Path
) -> None:
    pixels = cube(dtype)
    expected = pixels.transpose(0, 3, 1, 2).astype("f4")
    held = pixels if layout == "NHWC" else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    data = StoredCutouts(write(tmp_path / "a.npz", cube=held), layout=layout)
    assert len(data) == N
    image, ebv, z = data[4]
    assert image.dtype == ebv.dtype == z.dtype == torch.float32
    assert image.is_contiguous()
    assert np.array_equal(image, expected[4])
    assert (ebv, z) == (np.float32(labels()["EBV"][4]), np.float32(labels()["z"][4]))


@pytest.mark.parametrize("rows", [[5], [8, 0, 3], [2, 3, 4, 7, 8], [1, 1, 0], [-1, 2]])
def test_a_batch_holds_the_rows_asked_for_in_that_order(
    rows: list[int], stored: StoredCutouts
) -> None:
    batch = torch.utils.data.default_collate(stored.__getitems__(rows))
    assert same(batch, in_memory(), rows)
    assert same(stored[rows[0]], in_memory(), rows[0])


def test_rows_that_do_not_exist(stored: StoredCutouts) -> None:
    with pytest.raises(IndexError):
        stored[N]
    assert len(list(stored)) == N


def test_neighbours_in_the_file_are_read_in_one_go(
    stored: StoredCutouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeks = []

    class Counting(io.FileIO):
        def seek(self, *where: Any) -> int:
            seeks.append(where)
            return super().seek(*where)

    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: Counting(path))
    stored.__getitems__([6, 2, 4, 3, 0])
    assert len(seeks) == 3
    assert seeks == sorted(seeks)


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers(start: str, workers: int, stored: StoredCutouts) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    stored[0]  # whatever a first read leaves behind must not disturb a fork
    loader = DataLoader(stored, 2, num_workers=workers, multiprocessing_context=start)
    for number, batch in enumerate(loader):
        assert same(batch, in_memory(), slice(2 * number, 2 * number + 2))


def test_a_copy_by_pickle_reads_the_same(stored: StoredCutouts) -> None:
    part = pickle.loads(pickle.dumps(stored.subset([7, 2])))
    assert torch.equal(part[0][0], stored[7][0])
    assert len(pickle.dumps(stored)) < 5000  # no pixels and no open file


def test_a_folder_of_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", cube())
    np.save(tmp_path / "labels.npy", labels())
    data = StoredCutouts(tmp_path)
    assert same(data[3], in_memory(), 3)
    with pytest.raises(ValueError, match="pass the folder that holds it"):
        StoredCutouts(tmp_path / "cube.npy")


def test_unpacking_a_compressed_archive_as_the_error_says_makes_it_readable(tmp_path: Path) -> None:
    path = tmp_path / "small.npz"
    np.savez_compressed(path, cube=cube(), labels=labels())
    with pytest.raises(ValueError, match=r"compressed.*python -m zipfile -e small.npz FOLDER"):
        StoredCutouts(path)
    command = [sys.executable, "-m", "zipfile", "-e", str(path), str(tmp_path / "folder")]
    subprocess.run(command, check=True)
    assert same(StoredCutouts(tmp_path / "folder")[3], in_memory(), 3)


def test_compressed_labels_with_pixels_that_are_not(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, array in (("labels", labels()), ("cube", cube())):
            kind = zipfile.ZIP_DEFLATED if name == "labels" else zipfile.ZIP_STORED
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue(), kind)
    assert same(StoredCutouts(tmp_path / "a.npz")[3], in_memory(), 3)


def test_archives_beyond_4_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # sizes and offsets in 64 bits from here on
    small = write(tmp_path / "small.npz").read_bytes()
    monkeypatch.undo()
    with zipfile.ZipFile(io.BytesIO(small)) as archive:
        assert archive.getinfo("cube.npy").extract_version == zipfile.ZIP64_VERSION
    path = tmp_path / "large.npz"
    with path.open("wb") as file:
        file.seek(5 * 2**30)  # a hole, which takes no room on the disk
        file.write(small)
    assert same(StoredCutouts(path)[3], in_memory(), 3)


def test_the_file_of_a_cutout_dataset_is_read_lazily_too(tmp_path: Path) -> None:
    data = in_memory()
    data.catalogue = {"mag": torch.rand(N, 5), "ra": torch.rand(N)}
    data.to_npz(tmp_path / "ours.npz")
    read = StoredCutouts(tmp_path / "ours.npz", **OURS)
    assert same(read[3], data, 3)
    assert {k: v.tolist() for k, v in read.catalogue.items()} == {
        k: v.tolist() for k, v in data.catalogue.items()
    }
    with pytest.raises(ValueError, match=r"no array 'cube'.*'ebv', 'image', 'z'.*from_npz\(path\)"):
        StoredCutouts(tmp_path / "ours.npz")


def test_other_arrays_of_an_archive_are_no_columns(tmp_path: Path) -> None:
    extra = {"raw": cube(), "bands": np.array(list("ugriz")), "ra": np.arange(N), "few": np.ones(2)}
    np.savez(tmp_path / "a.npz", cube=cube(), z=np.ones(N), ebv=np.ones(N), **extra)
    data = StoredCutouts(tmp_path / "a.npz", labels=None, ebv="ebv")
    assert list(data.catalogue) == ["ra"]


def test_columns(tmp_path: Path) -> None:
    table = labels(
        mag=np.random.default_rng(2).random((N, 5)),
        huge=np.full(N, 2**64 - 1, "u8"),
        flag=np.ones(N, bool),
        absMag=np.full(N, np.nan),
    )
    data = StoredCutouts(write(tmp_path / "a.npz", labels=table))
    assert set(data.catalogue) == {"specObjID", "dered_petro_r", "mag", "absMag"}
    # An identifier of 19 digits survives.
    assert data.catalogue["specObjID"].tolist() == table["specObjID"].tolist()
    assert data.catalogue["mag"].dtype == data.catalogue["absMag"].dtype == torch.float32
    assert np.array_equal(data.catalogue["dered_petro_r"], table["dered_petro_r"])
    assert np.array_equal(data.z, table["z"].astype("f4"))


def test_subset_reads_no_pixels(stored: StoredCutouts) -> None:
    path = stored.source.path
    kept = path.rename(path.with_suffix(".kept"))
    part = stored.subset(stored.z > stored.z.median()).subset([2, 0])
    assert part.rows.tolist() == stored.rows[stored.z > stored.z.median()][[2, 0]].tolist()
    assert torch.equal(part.z, stored.z[part.rows])
    assert torch.equal(part.ebv, stored.ebv[part.rows])
    assert torch.equal(
        part.catalogue["dered_petro_r"], stored.catalogue["dered_petro_r"][part.rows]
    )
    assert len(stored) == N
    with pytest.raises(FileNotFoundError):
        part[0]
    kept.rename(path)
    assert same(part[1], in_memory(), part.rows[1])
    assert repr(part) == "<StoredCutouts: 2 images of 5 x 6 x 6 pixels in sdss.npz>"


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([N], IndexError, "out of"),
        (torch.ones(3, dtype=torch.bool), IndexError, "does not match"),
        (torch.zeros(N, dtype=torch.bool), ValueError, r"at least one galaxy.*\(0,\) of 9"),
        (3, ValueError, "at least one galaxy, by a list or a mask"),
    ],
)
def test_subset_refuses(
    indices: Any, error: type[Exception], message: str, stored: StoredCutouts
) -> None:
    with pytest.raises(error, match=message):
        stored.subset(indices)


def test_split_agrees_with_the_one_in_memory(stored: StoredCutouts) -> None:
    parts, expected = (data.split(0.5, 0.3, 0.2, seed=3) for data in (stored, in_memory()))
    for part, other in zip(parts, expected, strict=True):
        assert torch.equal(part.z, other.z)
        assert torch.equal(part.load().image, other.image)
    with pytest.raises(ValueError, match="positive and add up to 1"):
        stored.split(0.5)


def test_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advphotoz.datasets.stored.BLOCK", 4 * 4 * 5 * 6 * 6)  # 4 galaxies
    absolute = np.where(np.arange(N) == 2, np.nan, 1.0)
    data = StoredCutouts(write(tmp_path / "a.npz", labels=labels(absMag=absolute)))
    rows = [8, 3, 4, 0, 1, 7]
    loaded = data.subset(rows).load()
    assert isinstance(loaded, CutoutDataset)
    assert same((loaded.image, loaded.ebv, loaded.z), in_memory(), rows)
    assert set(loaded.catalogue) == {"specObjID", "dered_petro_r", "absMag"}
    with pytest.warns(UserWarning, match=r"\['absMag'\] hold NaN.*left out"):
        assert "absMag" not in data.load().catalogue


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_pixels_that_are_not_finite_name_the_galaxy(value: float, tmp_path: Path) -> None:
    pixels = cube("f8")
    pixels[6, 1, 2, 3] = value
    data = StoredCutouts(write(tmp_path / "a.npz", cube=pixels)).subset([2, 6, 5])
    data[0]
    message = r"row 6 of .*a\.npz .* \(band, y, x\) = \(3, 1, 2\).*data\.rows != 6"
    for read in (lambda: data[1], lambda: data.__getitems__([2, 1]), data.load):
        with pytest.raises(ValueError, match=message):
            read()
    assert len(data.subset(data.rows != 6).load()) == 2


@pytest.mark.parametrize(("column", "name"), [("z", "z"), ("EBV", "ebv")])
def test_labels_that_are_not_finite_name_the_galaxy(column: str, name: str, tmp_path: Path) -> None:
    table = labels()
    table[column][6] = np.nan
    data = StoredCutouts(write(tmp_path / "a.npz", labels=table)).subset([2, 6])
    with pytest.raises(ValueError, match=rf"{name} of the galaxy in row 6 .*data\.{name}\.isfin"):
        data[1]
    assert len(data.subset(getattr(data, name).isfinite()).load()) == 1


@pytest.mark.parametrize(
    ("arrays", "settings", "error", "message"),
    [
        ({}, {"image": "pixels"}, ValueError, r"no array 'pixels', it has \['cube', 'labels'\]"),
        ({}, {"labels": "table"}, ValueError, r"no array 'table', it has \['cube', 'labels'\]"),
        (
            {},
            {"labels": None},
            ValueError,
            r"no column 'z' with one number .* it has \[\]; a table",
        ),
        ({}, {"ebv": "ebv"}, ValueError, r"no column 'ebv'.*'EBV', 'dered_petro_r'.*'z'"),
        ({}, {"z": "class"}, ValueError, r"no column 'class'"),
        ({}, {"layout": "HWC"}, ValueError, "layout must be 'NHWC' or 'NCHW', got 'HWC'"),
        ({}, {"layout": "NCHW"}, ValueError, r"\(9, 6, 6, 5\).*pass layout='NHWC'"),
        ({"cube": cube().transpose(0, 3, 1, 2).copy()}, {}, ValueError, "pass layout='NCHW'"),
        ({"cube": cube()[0]}, {}, ValueError, r"4 dimensions.*\(6, 6, 5\)"),
        ({"cube": cube()[:0]}, {}, ValueError, r"none of them 0.*\(0, 6, 6, 5\)"),
        ({"cube": cube().astype(int)}, {}, TypeError, "'cube' .* floating point, got int64"),
        ({"cube": cube().astype(object)}, {}, ValueError, "Python objects.*never unpickled"),
        ({"cube": np.asfortranarray(cube())}, {}, ValueError, "Fortran.*ascontiguousarray"),
        ({"labels": labels(N - 1)}, {}, ValueError, r"9 rows, got .* of shape \(8,\)"),
        ({"labels": np.ones((N, 2))}, {}, ValueError, "record array.*labels=None"),
        ({"labels": labels(name=[None] * N)}, {}, ValueError, "'labels' .* cannot be read.*pickle"),
        ({"z": np.ones(3), "EBV": np.ones(N)}, {"labels": None}, ValueError, "no column 'z' .* 9"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arrays: dict[str, Any],
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.npz", **arrays)
    with pytest.raises(error, match=message):
        StoredCutouts(path, **settings)


def test_truncated_files_are_refused_when_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz")
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(ValueError, match="truncated or no .npz archive.*fetch it again"):
        StoredCutouts(path)
    np.save(tmp_path / "cube.npy", cube())
    np.save(tmp_path / "labels.npy", labels())
    size = (tmp_path / "cube.npy").stat().st_size
    os.truncate(tmp_path / "cube.npy", size - 1)
    with pytest.raises(ValueError, match=rf"truncated.*takes {size} bytes, {size - 1} are there"):
        StoredCutouts(tmp_path)
    os.truncate(tmp_path / "labels.npy", 9)
    os.truncate(tmp_path / "cube.npy", 9)
    with pytest.raises(ValueError, match="'cube' in .* cannot be read"):
        StoredCutouts(tmp_path)
    with pytest.raises(FileNotFoundError):
        StoredCutouts(tmp_path / "nothing.npz")


def test_a_member_shorter_than_its_header_says(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, cube())
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("cube.npy", buffer.getvalue()[:-4])
        archive.writestr("more.npy", b"0" * 1000)  # so that the file itself is long enough
    with pytest.raises(ValueError, match="truncated: 'cube'"):
        StoredCutouts(tmp_path / "a.npz", labels="more")


def test_a_file_cut_while_in_use(tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", cube())
    np.save(tmp_path / "labels.npy", labels())
    data = StoredCutouts(tmp_path)
    os.truncate(tmp_path / "cube.npy", 4000)
    data[0]
    with pytest.raises(ValueError, match="ends early"):
        data[N - 1]


# By how many bytes does the largest resident size grow while a network trains an epoch and is
# evaluated, and the resident size while all is loaded? Not the largest one there: what was freed
# before, and is below the peak, would not count.
GROWTH = """
import sys
from pathlib import Path
import torch
from torch.utils.data import DataLoader
from advphotoz import FGSM, AdversarialTrainer, CrossEntropy, RedshiftBins
from advphotoz.datasets import StoredCutouts
from advphotoz.evaluation import evaluate

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.fc = torch.nn.AvgPool2d(16), torch.nn.Linear(81, 180)

    def forward(self, image, ebv):
        return self.fc(torch.cat([self.pool(image).flatten(1), ebv[:, None]], dim=1))

def run(data):
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    bins = RedshiftBins(0.0, 1.0, 180)
    trainer = AdversarialTrainer(model, optimizer, FGSM(0.01), 0.1, CrossEntropy(bins))
    trainer.fit(DataLoader(data, 64, shuffle=True), epochs=1, progress=False)
    few = DataLoader(data.subset(range(0, len(data), 4)), 64)
    evaluate(model, few, [FGSM(0.01)], bins, progress=False, checks=False, bootstrap=0)

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))

data = StoredCutouts(sys.argv[1])
run(data.subset(range(256)))  # what the library itself takes
before = resident("VmHWM:")
run(data)
streamed = resident("VmHWM:") - before
before = resident("VmRSS:")
held = data.load()
print(streamed, resident("VmRSS:") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_training_and_evaluation_stay_far_below_the_size_of_the_file(tmp_path: Path) -> None:
    path, n, step = tmp_path / "large.npz", 3600, 200
    galaxies = np.random.default_rng(0).normal(size=(step, 64, 64, 5)).astype("f4")
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("cube.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (n, 64, 64, 5)}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(n // step):
                file.write(galaxies)
        with archive.open("labels.npy", "w") as file:
            np.save(file, labels(n))
    command = [sys.executable, "-c", GROWTH, str(path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert ran.returncode == 0, ran.stderr
    streamed, loaded = (int(number) / path.stat().st_size for number in ran.stdout.split())
    assert streamed < 0.3
    assert loaded > 0.9  # what is measured does see pixels that are held
