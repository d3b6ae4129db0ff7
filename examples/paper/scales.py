"""How large the experiment is: for a test, for two CPU cores, or as in the paper."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SCALES", "Scale"]


@dataclass(frozen=True)
class Scale:
    """Sizes of samples and networks.

    Attributes
    ----------
    n_train, n_valid, n_test : int
        Galaxies in each training set, for the choice of the best epoch, and for the clean test.
    n_pool : int
        Training sets of different seeds are drawn from this many galaxies.
    n_attack, n_curve : int
        Galaxies attacked, the first of the test set; and those for the curves against eps.
    size : int
        Pixels along one side of a simulated image; the paper's 64.
    epochs, batch : int
        Of every training.
    inception_width, cnn_width : float
        Factor on the numbers of channels and features; 1 is the paper's network.
    seeds : int
        Trainings of each defense, with other initial weights and another training set each.
    craft_steps : int
        Of the PGD in Algorithm 1; the paper's 10 of eps / 10, or fewer of 2.5 eps / steps.
    paper_recipe : bool
        True: the paper's Adam, 0.01 times 0.8 on a plateau, and hard labels. False: AdamW, one
        cycle of 2e-3, and soft labels of 0.008, which get further in few epochs
        (docs/guide/precision.md).
    workers : int
        Processes that read a file of images.
    """

    n_train: int
    n_valid: int
    n_test: int
    n_pool: int
    n_attack: int
    n_curve: int
    size: int
    epochs: int
    batch: int
    inception_width: float
    cnn_width: float
    seeds: int
    craft_steps: int
    paper_recipe: bool
    workers: int

    @property
    def galaxies(self) -> int:
        """Number of galaxies needed in all."""
        return self.n_pool + self.n_valid + self.n_test


SCALES = {
    # Every step once, at sizes that mean nothing: the numbers are noise.
    "smoke": Scale(
        n_train=32,
        n_valid=8,
        n_test=24,
        n_pool=48,
        n_attack=16,
        n_curve=4,
        size=16,
        epochs=2,
        batch=16,
        inception_width=0.05,
        cnn_width=0.05,
        seeds=2,
        craft_steps=3,
        paper_recipe=False,
        workers=0,
    ),
    # The central pixels only: a quarter of the cost.
    "cpu": Scale(
        n_train=4000,
        n_valid=256,
        n_test=1000,
        n_pool=8000,
        n_attack=500,
        n_curve=128,
        size=32,
        epochs=16,
        batch=32,
        inception_width=0.25,
        cnn_width=0.5,
        seeds=3,
        craft_steps=3,
        paper_recipe=False,
        workers=0,
    ),
    # The paper's numbers; pool and test set as large as a file of 659,857 galaxies allows.
    "full": Scale(
        n_train=100_000,
        n_valid=10_000,
        n_test=100_000,
        n_pool=400_000,
        n_attack=10_000,
        n_curve=2000,
        size=64,
        epochs=150,
        batch=64,
        inception_width=1.0,
        cnn_width=1.0,
        seeds=3,
        craft_steps=10,
        paper_recipe=True,
        workers=4,
    ),
}
