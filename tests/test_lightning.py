"""The example for Lightning: the losses of `AdversarialTrainer`, alone and on two processes."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from advphotoz import AdversarialTrainer
from advphotoz.distributed import JointBatches

pytest.importorskip("lightning")
pytestmark = pytest.mark.filterwarnings("ignore")
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "lightning_training.py"


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lightning_training", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lightning_training"] = module
    spec.loader.exec_module(module)
    return module


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(5 * 64, 32), nn.Tanh())
        self.last = nn.Linear(33, 180)

    def forward(self, image: torch.Tensor, ebv: torch.Tensor) -> torch.Tensor:
        return self.last(torch.cat([self.layers(image), ebv[:, None].to(image.dtype)], 1))


def galaxies(n: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(n, generator=generator)
    return TensorDataset(torch.randn(n, 5, 8, 8, generator=generator), z / 10, z)


def small() -> nn.Module:
    torch.manual_seed(0)
    return Small()


def losses(folder: Path) -> tuple[list[float], list[float]]:
    with (folder / "losses" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return tuple([float(r[k]) for r in rows if r[k]] for k in ("train_loss", "valid_loss"))


def ours(module: ModuleType, epochs: int) -> list[float]:
    network = small()
    data = galaxies(64, 1)
    trainer = AdversarialTrainer(
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        module.Robust.attack,
        module.Robust.fraction,
        module.OBJECTIVE,
    )
    loader = DataLoader(data, batch_sampler=JointBatches(data, 16))
    history = trainer.fit(loader, epochs=epochs, progress=False)
    return [row["train_loss"] for row in history]


def test_losses_are_those_of_our_trainer(tmp_path: Path) -> None:
    module = example()
    data = galaxies(64, 1)
    before = [tensor.clone() for tensor in data.tensors]
    robust = module.Robust(small(), learning_rate=0.1)
    module.train(robust, data, galaxies(20, 2), 3, tmp_path, batch_size=16)
    found, valid = losses(tmp_path)
    assert found == pytest.approx(ours(module, 3), rel=1e-5)
    assert len(valid) == 3
    assert all(torch.equal(a, b) for a, b in zip(before, data.tensors, strict=True))
    plain = module.PhotoZ(small(), learning_rate=0.1)
    module.train(plain, data, galaxies(20, 2), 3, tmp_path / "plain", batch_size=16)
    usual, _ = losses(tmp_path / "plain")
    assert all(a > b for a, b in zip(found, usual, strict=True))  # attacked ones are harder


def test_mixed_precision(tmp_path: Path) -> None:
    module = example()
    robust = module.Robust(small(), learning_rate=0.1)
    settings: dict[str, Any] = {"precision": "bf16-mixed", "batch_size": 16}
    module.train(robust, galaxies(64, 1), galaxies(20, 2), 2, tmp_path, **settings)
    found, _ = losses(tmp_path)
    assert found == pytest.approx(ours(module, 2), rel=0.02)
    assert found != pytest.approx(ours(module, 2), rel=1e-6)


TWO = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from test_lightning import example, galaxies, small
if __name__ == "__main__":
    module = example()
    robust = module.Robust(small(), learning_rate=0.1)
    module.train(robust, galaxies(64, 1), galaxies(20, 2), 3, Path("."), batch_size=16, devices=2,
                 strategy="ddp")
"""


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    paths = [str(Path(__file__).parent), *sys.path]
    script.write_text(TWO.format(paths=paths))
    ran = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found, _ = losses(tmp_path)
    assert found == pytest.approx(ours(example(), 3), rel=1e-5)
