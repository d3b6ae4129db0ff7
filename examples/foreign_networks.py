"""Networks of other habits than the paper's, adapted in one or two lines each and evaluated.

    python examples/foreign_networks.py

One redshift as output; a tuple as output; a dictionary as input and as batch; the image not first.
The networks are small and untrained and the pixels random: what is shown is how they are adapted,
the numbers mean nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advphotoz import PGD, LinfBall, PointEstimate, RedshiftBins, evaluate
from advphotoz.datasets import MappedLoader
from advphotoz.models import Adapter

BINS = RedshiftBins(0.0, 0.4, 40)
SIDE = 8


class Regression(nn.Module):
    """One redshift per galaxy, standardised: of mean 0.2 and standard deviation 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(5 * SIDE**2, 32), nn.GELU())
        self.last = nn.Linear(33, 1)

    def forward(self, image: Tensor, ebv: Tensor) -> Tensor:
        return self.last(torch.cat([self.layers(image), ebv[:, None]], dim=1))


class WithFeatures(nn.Module):
    """Logits, and the features that they were made from."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(5 * SIDE**2, 32), nn.GELU())
        self.last = nn.Linear(32, BINS.n)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(image)
        return self.last(features), features


class OfDict(nn.Module):
    """The batch as a dictionary in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(5 * SIDE**2, BINS.n))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.layers(batch["image"]) + batch["ebv"][:, None]


class ImageLast(nn.Module):
    """E(B-V) first, the image second."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(5 * SIDE**2, BINS.n))

    def forward(self, ebv: Tensor, image: Tensor) -> Tensor:
        return self.layers(image) + ebv[:, None]


def main() -> None:
    """Adapt each network, evaluate it, and print the verdict of the checks and the table."""
    torch.manual_seed(0)
    image, ebv, z = torch.randn(96, 5, SIDE, SIDE), torch.rand(96) / 10, 0.4 * torch.rand(96)
    batches = [(image, ebv, z)]
    attacks = {"PGD-10": PGD(LinfBall(0.05))}

    # One output: the readout says so. The adapter turns it back into a redshift.
    model = Adapter(Regression(), lambda net, image, ebv: 0.2 + 0.1 * net(image, ebv))
    result = evaluate(model, batches, attacks, PointEstimate(), progress=False)
    print(f"one output\n\n{result.to_markdown()}\n")

    # A tuple: the part that holds the prediction. No E(B-V): batches without it.
    model = Adapter(WithFeatures(), lambda net, image: net(image)[0])
    result = evaluate(model, [(image, z)], attacks, BINS, progress=False)
    print(f"tuple\n\n{result.to_markdown()}\n")

    # A dictionary, from a loader that yields dictionaries.
    loader = [{"image": image, "ebv": ebv, "redshift": z}]
    model = Adapter(OfDict(), lambda net, image, ebv: net({"image": image, "ebv": ebv}))
    tuples = MappedLoader(loader, lambda b: (b["image"], b["ebv"], b["redshift"]))
    result = evaluate(model, tuples, attacks, BINS, progress=False)
    print(f"dictionary\n\n{result.to_markdown()}\n")

    # The image is not the first argument: put the arguments in order.
    model = Adapter(ImageLast(), lambda net, image, ebv: net(ebv, image))
    result = evaluate(model, batches, attacks, BINS, progress=False)
    print(f"image not first\n\n{result.to_markdown()}")


if __name__ == "__main__":
    main()
