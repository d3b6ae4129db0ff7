"""Training a network and measuring it: what the steps do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader

from advphotoz import AdversarialTrainer, CrossEntropy, fast_autocast, models
from advphotoz.attacks import Attack
from advphotoz.datasets import random_dihedral
from advphotoz.evaluation import evaluate, robustness_curve, transfer_matrix

from .data import Galaxies
from .plan import BINS, GRID, OBJECTIVE, Training, curve_attacks
from .scales import Scale
from .steps import write_json

__all__ = ["Work"]


class Work:
    """The galaxies and the folder of trained networks, and what is done with them."""

    def __init__(self, scale: Scale, galaxies: Galaxies, out: Path) -> None:
        self.scale, self.galaxies, self.out = scale, galaxies, out
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.autocast = fast_autocast(self.device)

    def build(self, training: Training) -> nn.Module:
        """Return a network with its initial weights, drawn from the seed of the training."""
        torch.manual_seed(training.seed)
        width = getattr(self.scale, f"{training.network}_width")
        changes = dict(training.changes)
        size = self.galaxies.image_size
        builder: Any = getattr(models, training.network)
        network: nn.Module = builder(n_bins=BINS.n, image_size=size, width=width, **changes)
        return network.to(self.device)

    def train(self, training: Training, path: Path) -> None:
        """Train by Algorithm 1, from the last finished epoch on; write the best weights to path."""
        scale = self.scale
        model = self.build(training)
        optimizer: torch.optim.Optimizer
        scheduler: OneCycleLR | ReduceLROnPlateau
        objective = OBJECTIVE
        sample = self.galaxies.training(training.seed)
        if scale.paper_recipe:
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01, eps=0.1)
            scheduler = ReduceLROnPlateau(optimizer, factor=0.8, patience=5)
        else:
            optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
            total = scale.epochs * -(-len(sample) // scale.batch)
            scheduler = OneCycleLR(optimizer, 2e-3, total_steps=total)
            objective = CrossEntropy(BINS, width=0.008)
        trainer = AdversarialTrainer(
            model,
            optimizer,
            training.attack,
            training.fraction,
            objective,
            scheduler=scheduler,
            scheduler_step="epoch" if scale.paper_recipe else "step",
            transform=random_dihedral,
            autocast=self.autocast,
            seed=training.seed,
        )
        shuffle = torch.Generator().manual_seed(training.seed)
        loader = DataLoader(
            sample, scale.batch, shuffle=True, generator=shuffle, num_workers=scale.workers
        )
        checkpoint = path.with_suffix(".checkpoint")
        valid = DataLoader(self.galaxies.validation(), scale.batch)
        history = trainer.fit(loader, valid, scale.epochs, checkpoint=checkpoint)
        trainer.load_best()
        body = {"training": repr(training), "best_epoch": trainer.best_epoch, "history": history}
        write_json(path.with_suffix(".json"), body)
        torch.save(model.state_dict(), path)
        checkpoint.unlink()

    def load(self, training: Training) -> nn.Module:
        """Return a trained network."""
        model = self.build(training)
        path = self.out / "models" / f"{training.name}.pt"
        model.load_state_dict(torch.load(path, map_location=self.device, weights_only=True))
        return model

    def loader(self, n: int) -> DataLoader[Any]:
        """Return the first n galaxies of the test set in batches."""
        return DataLoader(self.galaxies.test(n), self.scale.batch)

    def evaluate(
        self, training: Training, attacks: dict[str, Attack], n: int, path: Path, checks: bool
    ) -> None:
        """Attack one network."""
        result = evaluate(
            self.load(training),
            self.loader(n),
            attacks,
            BINS,
            objective=OBJECTIVE,
            autocast=self.autocast,
            checks=checks,
            check_samples=min(64, n),
        )
        result.save(path)

    def transfer(
        self, trainings: list[Training], attack: Attack, sources: list[str] | None, path: Path
    ) -> None:
        """Show the images made for one or each network to all."""
        networks = {t.name: self.load(t) for t in trainings}
        transfer_matrix(
            networks,
            self.loader(self.scale.n_attack),
            attack,
            BINS,
            sources=sources,
            objective=OBJECTIVE,
            autocast=self.autocast,
        ).save(path)

    def curve(self, training: Training, path: Path) -> None:
        """Attack one network with growing eps."""
        robustness_curve(
            self.load(training),
            self.loader(self.scale.n_curve),
            curve_attacks(),
            GRID,
            BINS,
            objective=OBJECTIVE,
            autocast=self.autocast,
        ).save(path)
