"""Attack your own network on your own cutouts: a checkpoint and an .npz in, a report out.

    python examples/attack_your_model.py cutouts.npz weights.pt --builder mypackage.nets:build \
        --z-max 0.4 --bins 180 --eps 0.01 --out report

The .npz holds `image` (N, bands, height, width) float, `ebv` (N,) in magnitudes and `z` (N,). The
checkpoint holds a state_dict, as `torch.save(model.state_dict(), "weights.pt")` writes it, or is
one of AdversarialTrainer. The builder is a function of a module that Python finds from this folder;
it is called with n_bands, image_size and n_bins, and returns the network without weights. That is
called as model(image, ebv). With `--output bins` it returns logits on redshift bins (no softmax),
and --z-min, --z-max and --bins must be those that it was trained on; with `--output redshift` it
returns one redshift per image, and n_bins is 1. Give one eps for all bands or one per band, in the
units of the images: your sky noise is a good yardstick.
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

from advphotoz import FGSM, PGD, LinfBall, PointEstimate, RedshiftBins
from advphotoz.datasets import CutoutDataset
from advphotoz.evaluation import evaluate


def load_model(builder: str, checkpoint: Path, data: CutoutDataset, outputs: int) -> nn.Module:
    """Build the network and read its weights; the file cannot run code (weights_only)."""
    sys.path.insert(0, str(Path.cwd()))
    module, _, function = builder.partition(":")
    build = getattr(importlib.import_module(module), function)
    _, bands, size, _ = data.image.shape
    model: nn.Module = build(n_bands=bands, image_size=size, n_bins=outputs)
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
    parser.add_argument(
        "--output", choices=["bins", "redshift"], default="bins", help="what the network returns"
    )
    parser.add_argument("--z-min", type=float, help="of the bins, 0 by default")
    parser.add_argument("--z-max", type=float, help="of the bins, 1 by default")
    parser.add_argument("--bins", type=int, help="their number, 180 by default")
    parser.add_argument("--eps", type=float, nargs="+", default=[0.01])
    parser.add_argument("--out", default="report", help="name of both files, without .md")
    args = parser.parse_args()

    grid = {"z_min": args.z_min, "z_max": args.z_max, "n": args.bins}
    grid = {name: value for name, value in grid.items() if value is not None}
    if grid and args.output == "redshift":
        parser.error("--z-min, --z-max and --bins belong to --output bins")
    readout = RedshiftBins(**grid) if args.output == "bins" else PointEstimate()
    print(f"The output is read as {readout}")
    data = CutoutDataset.from_npz(args.cutouts)
    outputs = readout.n if isinstance(readout, RedshiftBins) else 1
    model = load_model(args.builder, args.checkpoint, data, outputs)
    eps = args.eps[0] if len(args.eps) == 1 else args.eps

    attacks = {"FGSM": FGSM(eps), "PGD-10": PGD(LinfBall(eps))}
    result = evaluate(model, DataLoader(data, batch_size=100), attacks, readout)

    print(result)
    result.save(f"{args.out}.json")
    title = f"# {args.checkpoint.name} on {args.cutouts.name}"
    setting = f"Attacked within eps = {eps}; the output is read as `{readout}`."
    Path(f"{args.out}.md").write_text(
        f"{title}\n\n{setting}\n\n{result.to_markdown()}\n\n## Checks\n\n"
        f"{result.checks.to_markdown()}\n",
        encoding="utf-8",
    )
    print(f"\nWritten: {args.out}.md and {args.out}.json")


if __name__ == "__main__":
    main()
