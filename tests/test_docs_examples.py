"""The Python blocks of the README and of the documentation run, so that they cannot rot."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from advphotoz import FGSM, AdversarialTrainer, CrossEntropy, RedshiftBins, datasets, models

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FRONT = ["README.md", "docs/getting-started.md"]
GUIDE = sorted(f"docs/guide/{path.name}" for path in (ROOT / "docs" / "guide").glob("*.md"))
# It simulates 6000 galaxies; tests/test_datasets_simulation.py runs the same call for fewer.
SLOW = {"docs/galaxies.md"}
OTHERS = sorted({f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - {*FRONT, *SLOW})
BINS = RedshiftBins(0.0, 1.0, 180)
SIZE = 16


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


PAGES = [page for page in FRONT + GUIDE + OTHERS if blocks(page)]


class Flat(nn.Module):
    """Numbers per galaxy from a small image and E(B-V); its habits are those of a test."""

    def __init__(self, outputs: int, habit: str = "") -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(5 * SIZE**2, outputs))
        self.habit = habit

    def forward(self, *inputs: Any) -> Any:
        if self.habit == "dict":
            inputs = (inputs[0]["image"], inputs[0]["ebv"])
        elif self.habit == "ebv first":
            inputs = inputs[::-1]
        image, ebv = inputs
        if self.habit == "random":
            image = image + torch.randn_like(image)
        if self.habit == "nhwc":
            image = image.permute(0, 3, 1, 2)
        output = self.layers(image) + ebv[:, None]
        if self.habit == "softmax":
            return output.softmax(1)
        if self.habit == "dict out":
            return {"logits": output}
        return (output, image) if self.habit == "tuple" else output


class Parts(nn.Module):
    """A network whose gradient is cut on the way, each time in another place."""

    def __init__(self, habit: str) -> None:
        super().__init__()
        self.habit = habit
        self.flat = Flat(180)
        self.head = self.layers = lambda image, ebv: self.flat(image, ebv)

    def backbone(self, image: Tensor) -> Tensor:
        return 2 * image

    @torch.no_grad()
    def embed(self, image: Tensor) -> Tensor:
        return 2 * image

    def tokens(self, image: Tensor) -> Tensor:
        return torch.round(4 * image) / 4

    def forward(self, image: Tensor, ebv: Tensor) -> Any:
        if self.habit == "frozen":
            with torch.no_grad():
                image = self.backbone(image)
        elif self.habit == "decorated":
            image = self.embed(image)
        elif self.habit == "clamps":
            image = image.clamp(-1, 1)
        else:
            image = self.tokens(image)
        return self.flat(image, ebv)


class Inputs(nn.Module):
    """A network with other inputs, in an order of its own."""

    def __init__(self, habit: str) -> None:
        super().__init__()
        self.habit = habit
        self.flat = Flat(180)

    def forward(self, *inputs: Tensor) -> Any:
        if self.habit == "third":
            ebv, psf, image = inputs
            return self.flat(image, ebv) + psf[:, None]
        if self.habit == "image alone":
            return self.flat(*inputs, torch.zeros(len(inputs[0])))
        image, maps = inputs
        return self.flat(image, maps.mean(1))


class Writer:
    """What is used of TensorBoard's SummaryWriter."""

    def __init__(self) -> None:
        self.written: list[tuple[Any, ...]] = []

    def add_scalar(self, *values: Any) -> None:
        self.written.append(values)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return a module to run a page in, in an empty folder, with what the reader brings."""
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    module = ModuleType("docs_page")
    # What a page defines can be pickled only if its module can be imported.
    monkeypatch.setitem(sys.modules, "docs_page", module)
    vars(module).update(what_the_reader_has())
    yield module
    plt = sys.modules.get("matplotlib.pyplot")
    if plt is not None:
        plt.close("all")


def what_the_reader_has() -> dict[str, Any]:
    """Return the names that the front pages say the reader brings: a network and arrays."""
    generator = torch.Generator().manual_seed(0)
    return {
        "model": models.cnn(image_size=SIZE, width=0.05),
        "image": torch.randn(8, 5, SIZE, SIZE, generator=generator).numpy(),
        "ebv": torch.rand(8, generator=generator).numpy() / 10,
        "z": 0.4 * torch.rand(8, generator=generator).numpy(),
    }


def what_the_guide_has(names: dict[str, Any]) -> None:
    """Add what the pages of the guide take for given."""
    data = datasets.CutoutDataset(names["image"], names["ebv"], names["z"])
    loader = DataLoader(data, batch_size=4)
    model = names["model"]
    names.update(
        data=data,
        train=data,
        valid=data,
        loader=loader,
        train_loader=loader,
        valid_loader=loader,
        epochs=2,
        other=models.cnn(image_size=SIZE, width=0.05),
        images=data.image,
        r_magnitude=torch.linspace(14, 18, len(data)),
        rank=0,
        world_size=1,
        writer=Writer(),
        norm=nn.BatchNorm1d(2),
    )
    dicts = [dict(zip(("image", "ebv", "z"), batch, strict=True)) for batch in loader]
    z_phot = data.z + 0.01
    names.update(
        network=model,
        returns_tuple=Flat(180, "tuple"),
        takes_dict=Flat(180, "dict"),
        ebv_first=Flat(180, "ebv first"),
        standardised=Flat(1),
        returns_pdf=Flat(180, "softmax"),
        random_in_eval=Flat(180, "random"),
        regression=Flat(1),
        returns_dict=Flat(180, "dict out"),
        takes_scaled=Flat(180),
        takes_nhwc=Flat(180, "nhwc"),
        image_third=Inputs("third"),
        dereddened=Inputs("image alone"),
        several_maps=Inputs("maps"),
        frozen=Parts("frozen"),
        decorated=Parts("decorated"),
        clamps=Parts("clamps"),
        tokenised=Parts("tokenised"),
        dict_loader=dicts,
        z_phot=z_phot,
        z_attacked=z_phot + 0.02,
        z_spec=data.z,
    )
    if importlib.util.find_spec("matplotlib") is not None:
        from matplotlib.figure import Figure

        names["ax"], names["other_ax"] = Figure().subplots(2)


def many_galaxies() -> DataLoader[Any]:
    """Return enough for tomographic bins."""
    generator = torch.Generator().manual_seed(1)
    image = 0.1 + torch.rand(60, 5, SIZE, SIZE, generator=generator)
    ebv, z = (scale * torch.rand(60, generator=generator) for scale in (0.1, 0.4))
    return DataLoader(datasets.CutoutDataset(image, ebv, z), batch_size=20)


def tensors(names: dict[str, Any]) -> None:
    """Turn the arrays into the tensors that a page passes to attacks."""
    names.update({key: torch.as_tensor(names[key]) for key in ("image", "ebv", "z")})
    names["x"] = names["image"]


def run(page: str, module: ModuleType) -> list[str]:
    found = blocks(page)
    for number, block in enumerate(found, 1):
        exec(compile(block, f"{page}, block {number}", "exec"), vars(module))
    return found


@pytest.mark.parametrize("name", FRONT)
def test_the_code_of_a_front_page_runs_from_top_to_bottom(
    name: str, page: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(run(name, page)) >= 2
    printed = capsys.readouterr().out
    assert printed.startswith("Checks: ")
    assert "FGSM 0.01" in printed
    assert "advphotoz-standard-1 0.01" in printed


def the_example_attack() -> dict[str, Any]:
    """Return the class that the page on attacks of one's own shows from the examples."""
    path = ROOT / "examples" / "own_attack.py"
    spec = importlib.util.spec_from_file_location("own_attack", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_attack"] = module
    spec.loader.exec_module(module)
    return {"Momentum": module.Momentum}


def a_file_of_cutouts(names: dict[str, Any]) -> dict[str, Any]:
    """Write sdss.npz in the layout of Pasquet et al. 2019, and return a trainer."""
    import numpy as np

    rng = np.random.default_rng(0)
    labels = np.zeros(30, dtype=[("z", "f4"), ("EBV", "f4"), ("dered_petro_r", "f4")])
    labels["z"], labels["dered_petro_r"] = rng.uniform(0.01, 0.39, 30), 17.0
    cube = rng.normal(size=(30, SIZE, SIZE, 5)).astype("f4")
    np.savez("sdss.npz", cube=cube, labels=labels)
    optimizer = torch.optim.SGD(names["model"].parameters(), lr=0.01)
    objective = CrossEntropy(RedshiftBins(0.0, 0.4, 180))
    trainer = AdversarialTrainer(names["model"], optimizer, FGSM(0.01), 0.2, objective)
    return {"trainer": trainer}


def files_of_ones_own() -> dict[str, Any]:
    """Write the files of the page on them with h5py, astropy and pyarrow; return a network."""
    import h5py
    import numpy as np
    from astropy.io import fits
    from astropy.table import Table
    from pyarrow import parquet, table

    rng = np.random.default_rng(0)
    n, ids = 120, np.arange(120) + 1000
    image, z = rng.normal(size=(n, 5, SIZE, SIZE)).astype("f4"), rng.uniform(0.05, 0.9, n)
    order = rng.permutation(n)
    with h5py.File("cutouts.h5", "w") as file:
        file["images"], file["id"] = image, ids
    lines = [f"{ids[k]},{z[k]}" for k in order]
    Path("redshifts.csv").write_text("\n".join(["id,zspec", *lines]) + "\n")
    with h5py.File("001-of-001.hdf5", "w") as file:
        file["image_array"], file["object_id"] = image[:9, :4], ids[:9].astype("S4")
        file["image_band"] = np.tile(np.array([b"g", b"r", b"i", b"z"]), (9, 1))
        file["image_psf_fwhm"], file["EBV"] = np.ones((9, 4)), np.full(9, 0.1)
    Table({"object_id": ids[3:20].astype("S4"), "Z": z[3:20]}).write("crossmatch.fits")
    Path("cutouts").mkdir()
    for k in range(3):
        planes = [fits.ImageHDU(image[k, b], name="GRI"[b]) for b in range(3)]
        for plane in planes:
            plane.header["MAGZERO"] = 27.0
        primary = fits.PrimaryHDU()
        primary.header["REDSHIFT"] = z[k]
        fits.HDUList([primary, *planes]).writeto(f"cutouts/{ids[k]}.fits")
    columns = {name: rng.random(n) for name in ("g", "r", "i", "EBV", "zspec", "other")}
    parquet.write_table(table(columns), "galaxies.parquet")
    return {"network": nn.Sequential(nn.Flatten(), nn.Linear(5 * SIZE**2, 1))}


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """Start torch.distributed with a single process."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", [page for page in PAGES if page not in FRONT])
def test_the_code_of_a_page_runs_from_top_to_bottom(
    name: str, page: ModuleType, request: pytest.FixtureRequest
) -> None:
    names = vars(page)
    what_the_guide_has(names)
    if "own-model" not in name:
        tensors(names)
    if "plot_" in "".join(blocks(name)):
        pytest.importorskip("matplotlib")
    if "own-attack" in name:
        names.update(the_example_attack())
    if "systematics" in name:
        names["loader"] = many_galaxies()
    if "large-files" in name:
        names.update(a_file_of_cutouts(names))
    if "own-files" in name:
        for package in ("h5py", "astropy", "pyarrow", "qp"):
            pytest.importorskip(package)
        names.update(files_of_ones_own())
    if "DistributedDataParallel" in "".join(blocks(name)):
        request.getfixturevalue("one_process")
    run(name, page)


def test_adapters_of_the_guide_give_what_the_readouts_take(page: ModuleType) -> None:
    """The page itself throws its adapters away."""
    names = vars(page)
    what_the_guide_has(names)
    tensors(names)
    block = next(b for b in blocks("docs/guide/own-model.md") if "AverageOverDraws" in b)
    imports, *lines = block.split("\n\n")
    exec(imports, names)
    for line in lines:
        code = "\n".join(row for row in line.splitlines() if not row.startswith("#"))
        made = eval(code, names)
        if isinstance(made, nn.Module):
            output = made(names["image"], names["ebv"])
            assert isinstance(output, Tensor)
            assert output.shape[1] in (1, 180)
        else:
            assert all(len(batch) in (2, 3) for batch in made)


def test_every_recipe_gives_an_attack_its_gradient(page: ModuleType) -> None:
    """Each adapted network answers a batch of the kind that it states, and FGSM moves it."""
    names = vars(page)
    what_the_guide_has(names)
    tensors(names)
    held = {"image": names["image"], "ebv": names["ebv"], "psf": 1 + names["ebv"]}
    held["extinction"] = names["ebv"][:, None] * torch.ones(5)
    tried = 0
    for block in blocks("docs/guide/recipes.md"):
        names.pop("model", None)
        exec(block, names)
        if "model" not in names:
            continue
        tried += 1
        [line] = re.findall(r"# batches \((.*), z\)", block)
        inputs = [held[name] for name in line.split(", ")]
        model = names["model"].eval()
        pixels = inputs[0].clone().requires_grad_()
        output = model(pixels, *inputs[1:])
        assert isinstance(output, Tensor)
        assert output.shape[1] in (1, 180)
        [gradient] = torch.autograd.grad(output.square().sum(), pixels)
        assert gradient.flatten(1).abs().amax(1).min() > 0, block
        # The answer is that of the network itself, where it is called as it was.
        own = getattr(model, "network", None)
        if isinstance(own, Parts):
            truth = own(*inputs)
            assert torch.allclose(output, truth, atol=1e-5)
            cut = inputs[0].clone().requires_grad_()
            through = own(cut, *inputs[1:])
            lost = torch.autograd.grad(through.sum(), cut, allow_unused=True)[0]
            assert lost is None or (lost == 0).any()
    assert tried == 15


def test_the_log_of_the_guide_was_written(page: ModuleType) -> None:
    names = vars(page)
    what_the_guide_has(names)
    tensors(names)
    found = blocks("docs/guide/training.md")
    last = next(i for i, block in enumerate(found) if "class Log" in block)
    chosen = [found[0], *(b for b in found[: last + 1] if "callbacks" in b or "ball =" in b)]
    for block in chosen:
        exec(compile(block, "docs/guide/training.md", "exec"), names)
    kinds = {written[0] for written in names["writer"].written}
    assert kinds == {"batch loss", "valid loss"}


def test_the_five_lines_are_the_same_on_both_pages() -> None:
    first = [next(b for b in blocks(page) if "evaluate(" in b) for page in FRONT]
    assert first[0] == first[1]
    assert len([line for line in first[0].splitlines() if line.strip()]) <= 5


@pytest.mark.parametrize("name", sorted(SLOW))
def test_the_code_that_is_not_run_is_python(name: str) -> None:
    for number, block in enumerate(blocks(name), 1):
        compile(block, f"{name}, block {number}", "exec")


def test_the_demo_table_has_its_place() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    marks = [readme.find(f"<!-- demo-table:{end} -->") for end in ("start", "end")]
    assert -1 < marks[0] < marks[1]


def test_every_promise_names_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "guide" / "promises.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, test)
    for row in re.findall(r"^\| (?!promise|-)(.*) \|$", text.replace("|---|---|\n", ""), re.M):
        assert "::" in row, f"a promise without a test: {row}"
