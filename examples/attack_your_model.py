"""Attack your own network on your own cutouts: a checkpoint and an .npz in, a report out.

    python examples/attack_your_model.py cutouts.npz weights.pt --builder mypackage.nets:build \
        --z-max 0.4 --bins 180 --eps 0.01 --out report

The .npz holds `image` (N, bands, height, width) float, `ebv` (N,) in magnitudes and `z` (N,). The
checkpoint holds a state_dict, as `torch.save(model.state_dict(), "weights.pt")` writes it. The
builder makes the network without weights; it is called with n_bands, image_size and n_bins, and
the network is called as model(image, ebv) and returns logits (no softmax). Give one eps for all
bands or one per band, in the units of the images: your sky noise is a good yardstick.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from advphotoz import FGSM, PGD, LinfBall, RedshiftBins
from advphotoz.datasets import CutoutDataset
from advphotoz.evaluation import evaluate


def load_model(
    builder: str, checkpoint: Path, data: CutoutDataset, bins: RedshiftBins
) -> nn.Module:
    """Build the network and read its weights; the file cannot run code (weights_only)."""
    module, _, function = builder.partition(":")
    build = getattr(importlib.import_module(module), function)
    _, bands, size, _ = data.image.shape
    model: nn.Module = build(n_bands=bands, image_size=size, n_bins=bins.n)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(state.get("model", state))
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    """Read, attack, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cutouts", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--builder", default="advphotoz.models:cnn", help="module:function")
    parser.add_argument("--z-min", type=float, default=0.0)
    parser.add_argument("--z-max", type=float, default=1.0)
    parser.add_argument("--bins", type=int, default=180)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.01])
    parser.add_argument("--out", type=Path, default=Path("report"))
    args = parser.parse_args()

    bins = RedshiftBins(args.z_min, args.z_max, args.bins)
    data = CutoutDataset.from_npz(args.cutouts)
    model = load_model(args.builder, args.checkpoint, data, bins)
    eps = args.eps[0] if len(args.eps) == 1 else args.eps

    attacks = {"FGSM": FGSM(eps), "PGD-10": PGD(LinfBall(eps))}
    result = evaluate(model, DataLoader(data, batch_size=100), attacks, bins=bins)

    print(result)
    result.save(args.out.with_suffix(".json"))
    args.out.with_suffix(".md").write_text(
        f"{result.to_markdown()}\n\n{result.sanity.to_markdown()}\n", encoding="utf-8"
    )
    print(f"\nWritten: {args.out.with_suffix('.md')} and {args.out.with_suffix('.json')}")


if __name__ == "__main__":
    main()
