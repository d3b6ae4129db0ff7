"""Algorithm 1 in PyTorch Lightning: two lines around the training step that is there.

    python examples/lightning_training.py [--galaxies 600] [--epochs 2] [--devices 1] [--bf16]

`PhotoZ` stands for any LightningModule with batches (x, *context, target), and is not changed;
`Robust` overrides its training step. With `--devices 2` two processes train together, on the same
batches as one. Needs the extras `lightning` and `sim`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from advphotoz import FGSM, CrossEntropy, RedshiftBins, distributed, mix_adversarial, models

BINS = RedshiftBins(0.0, 1.0, 180)
OBJECTIVE = CrossEntropy(BINS)


class PhotoZ(LightningModule):
    """A network trained in the usual way."""

    def __init__(self, network: nn.Module, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = learning_rate

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)

    def training_step(self, batch: Any, number: int) -> Tensor:
        *inputs, z = batch
        loss = OBJECTIVE(self(*inputs), z).mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, number: int) -> None:
        *inputs, z = batch
        loss = OBJECTIVE(self(*inputs), z).mean()
        self.log("valid_loss", loss, sync_dist=True, batch_size=len(z))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


class Robust(PhotoZ):
    """The same, trained on batches of which a share is adversarial."""

    attack = FGSM(0.01, objective=OBJECTIVE)
    fraction = 0.25

    def on_fit_start(self) -> None:
        self.draws = torch.Generator().manual_seed(0)  # the same in all processes

    def training_step(self, batch: Any, number: int) -> Tensor:
        with distributed.joint_batch(len(batch[0])):  # drawn for the batch of all processes
            mixed = mix_adversarial(self.network, batch, self.attack, self.fraction, self.draws)
        return super().training_step(mixed, number)  # a new batch: the given one is as it was


class Batches:
    """Makes the training loader once the processes are there: each gets its part of a batch."""

    def __init__(self, data: Dataset[Any], batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size

    def __call__(self) -> DataLoader[Any]:
        sampler = distributed.JointBatches(self.data, self.batch_size)
        return DataLoader(self.data, batch_sampler=sampler)


def train(
    module: PhotoZ,
    data: Dataset[Any],
    valid: Dataset[Any],
    epochs: int,
    folder: Path,
    batch_size: int = 64,
    **settings: Any,
) -> Trainer:
    """Fit with early stopping and a log of the losses, and return Lightning's trainer."""
    module.train_dataloader = Batches(data, batch_size)  # type: ignore[method-assign]
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        use_distributed_sampler=False,  # ours share the batches themselves
        callbacks=[EarlyStopping("valid_loss", patience=10)],
        logger=CSVLogger(folder, name="losses", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=1,
        **settings,
    )
    trainer.fit(module, val_dataloaders=DataLoader(valid, batch_size))
    return trainer


def main() -> None:
    """Train a narrow CNN on simulated galaxies, a quarter of each batch adversarial."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--galaxies", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument("--out", type=Path, default=Path("runs/lightning"))
    args = parser.parse_args()

    from advphotoz.datasets import simulate

    torch.manual_seed(0)
    train_set, valid_set = simulate(args.galaxies, seed=1).split(0.8, 0.2)
    network = models.cnn(n_bins=BINS.n, width=0.25)
    trainer = train(
        Robust(network),
        train_set,
        valid_set,
        args.epochs,
        args.out,
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        precision="bf16-mixed" if args.bf16 else "32-true",
    )
    if trainer.is_global_zero:
        loss = float(trainer.callback_metrics["valid_loss"])
        print(f"{args.epochs} epochs: validation loss {loss:.3f} (simulated galaxies)")


if __name__ == "__main__":
    main()
