"""Attack your own network on your own cutouts: a checkpoint and an .npz in, a report out.

    python examples/attack_your_model.py cutouts.npz weights.pt --builder mypackage.nets:build \
        --z-max 0.4 --bins 180 --eps 0.01 --out report

The .npz holds `image` (N, bands, height, width) float, `ebv` (N,) in magnitudes and `z` (N,). The
checkpoint holds a state_dict, as `torch.save(model.state_dict(), "weights.pt")` writes it, or is
one of AdversarialTrainer. The builder is a function of a module that Python finds from this folder;
it is called with n_bands, image_size and n_bins, and returns the network without weights. That is
called as model(image, ebv) and returns logits (no softmax). Give one eps for all bands or one per
band, in the units of the images: your sky noise is a good yardstick.
"""

from __future__ import annotations

import argparse
import importlib
import pickle
import sys
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
    sys.path.insert(0, str(Path.cwd()))
    module, _, function = builder.partition(":")
    build = getattr(importlib.import_module(module), function)
    _, bands, size, _ = data.image.shape
    model: nn.Module = build(n_bands=bands, image_size=size, n_bins=bins.n)
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        sys.exit(
            f"{checkpoint} cannot be read as weights alone: it is cut off, or holds objects, which "
            f"could run code; write it with torch.save(model.state_dict(), {checkpoint.name!r})"
        )
    # A checkpoint of AdversarialTrainer: the weights of the best epoch, or else of the last one.
    model.load_state_dict(state.get("best_weights") or state.get("model", state))
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
    parser.add_argument("--out", default="report", help="name of both files, without .md")
    args = parser.parse_args()

    bins = RedshiftBins(args.z_min, args.z_max, args.bins)
    data = CutoutDataset.from_npz(args.cutouts)
    model = load_model(args.builder, args.checkpoint, data, bins)
    eps = args.eps[0] if len(args.eps) == 1 else args.eps

    attacks = {"FGSM": FGSM(eps), "PGD-10": PGD(LinfBall(eps))}
    result = evaluate(model, DataLoader(data, batch_size=100), attacks, bins=bins)

    print(result)
    result.save(f"{args.out}.json")
    title = f"# {args.checkpoint.name} on {args.cutouts.name}\n\nAttacked within eps = {eps}."
    Path(f"{args.out}.md").write_text(
        f"{title}\n\n{result.to_markdown()}\n\n{result.sanity.to_markdown()}\n", encoding="utf-8"
    )
    print(f"\nWritten: {args.out}.md and {args.out}.json")


if __name__ == "__main__":
    main()
