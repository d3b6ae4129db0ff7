"""Options that say which network is meant, how it is built, and what its output is."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advphotoz import models
from advphotoz._files import replacing
from advphotoz.datasets import StoredCutouts
from advphotoz.redshift import PointEstimate, Readout, RedshiftBins

__all__ = ["Network", "add_network", "build", "described", "load"]

DESCRIPTION = "network.json"
CHECKPOINT = "checkpoint.pt"
BUILT_IN = ("cnn", "inception")
# Where a file of weights keeps them: the best epoch of AdversarialTrainer, its last, Lightning.
INSIDE = ("best_weights", "model", "state_dict")


@dataclass(frozen=True)
class Network:
    """How a network is built and read; what `train` writes beside its weights.

    Attributes
    ----------
    model : str
        ``cnn``, ``inception``, or ``module:builder``.
    settings : dict
        Arguments of the builder.
    output : str
        ``bins`` or ``redshift``.
    grid : tuple
        z_min, z_max and number of the bins.
    """

    model: str
    settings: dict[str, Any]
    output: str = "bins"
    grid: tuple[float, float, int] = (0.0, 1.0, 180)

    @property
    def readout(self) -> Readout:
        """Return how the output becomes a redshift."""
        low, high, count = self.grid
        return PointEstimate() if self.output == "redshift" else RedshiftBins(low, high, count)

    def save(self, folder: Path) -> None:
        """Write it beside the weights."""
        with replacing(folder / DESCRIPTION) as part:
            part.write_text(json.dumps(vars(self), indent=2), encoding="utf-8")


def add_network(parser: argparse.ArgumentParser, *, trained: bool) -> None:
    """Add the options that `described` reads, and those of weights if it is trained already."""
    group = parser.add_argument_group("the network")
    group.add_argument(
        "--model",
        required=trained,
        default=None if trained else "cnn",
        metavar="NETWORK",
        help=("a folder that `advphotoz train` wrote; or " if trained else "")
        + "cnn, inception, or MODULE:BUILDER, a class or function that Python finds from here",
    )
    group.add_argument(
        "--model-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="argument of the builder; n_bands, image_size and n_bins are given if it takes them",
    )
    if trained:
        group.add_argument("--weights", type=Path, metavar="FILE", help="its state_dict")
    group.add_argument(
        "--output", choices=["bins", "redshift"], help="logits on redshift bins (default), or z"
    )
    group.add_argument("--z-min", type=float, help="of the bins (0)")
    group.add_argument("--z-max", type=float, help="of the bins (1)")
    group.add_argument("--bins", type=int, help="their number (180)")
    group.add_argument("--device", help="cpu, cuda, mps; by default a GPU where there is one")


def described(args: argparse.Namespace) -> Network:
    """Return the network that the options describe, or the one of a folder.

    Raises
    ------
    ValueError, FileNotFoundError
        If options contradict each other or the folder, or are none.
    """
    grid = {name: getattr(args, name) for name in ("z_min", "z_max", "bins")}
    given = [name for name, value in {**grid, "output": args.output}.items() if value is not None]
    if Path(args.model).is_dir():
        path = Path(args.model) / DESCRIPTION
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: no training of this command wrote it")
        if given or args.model_arg:
            name = (given or ["model_arg"])[0].replace("_", "-")
            raise ValueError(f"--{name} is known from {args.model}; leave it out")
        held = json.loads(path.read_text(encoding="utf-8"))
        return Network(**{**held, "grid": tuple(held["grid"])})
    output = args.output or "bins"
    if output == "redshift" and any(value is not None for value in grid.values()):
        raise ValueError("--z-min, --z-max and --bins belong to --output bins")
    settings = {}
    for text in args.model_arg:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--model-arg must be NAME=VALUE, got {text!r}")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return Network(
        args.model,
        settings,
        output,
        (
            0.0 if args.z_min is None else args.z_min,
            1.0 if args.z_max is None else args.z_max,
            180 if args.bins is None else args.bins,
        ),
    )


def build(network: Network, data: StoredCutouts) -> nn.Module:
    """Build it, without weights, for the images of the data.

    Raises
    ------
    ImportError, ValueError, TypeError
        If there is no such builder, or it takes other arguments.
    """
    builder = _builder(network.model)
    bands, _, size = data[0][0].shape
    readout = network.readout
    known = {
        "n_bands": bands,
        "image_size": size,
        "n_bins": readout.n if isinstance(readout, RedshiftBins) else 1,
    }
    accepted = inspect.signature(builder).parameters
    settings = {name: value for name, value in known.items() if name in accepted}
    settings |= network.settings
    try:
        inspect.signature(builder).bind(**settings)
    except TypeError as error:
        raise TypeError(
            f"{network.model}{inspect.signature(builder)}: {error}; give it by --model-arg "
            "NAME=VALUE"
        ) from None
    model = builder(**settings)
    if not isinstance(model, nn.Module):
        raise TypeError(f"{network.model} returned {type(model).__name__}, no torch.nn.Module")
    return model


def load(args: argparse.Namespace, data: StoredCutouts) -> tuple[nn.Module, Readout]:
    """Build the network, read its weights, and put it on its device, in eval mode.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
        If the weights are not there, do not fit, or hold more than weights.
    """
    network = described(args)
    weights: Path | None = args.weights
    if Path(args.model).is_dir():
        weights = weights or Path(args.model) / CHECKPOINT
    if weights is None:
        raise ValueError("--weights is missing: the file with the state_dict of the network")
    if not weights.exists():
        raise FileNotFoundError(f"there is no {weights}")
    model = build(network, data)
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        raise ValueError(
            f"{weights} cannot be read as weights alone: it is cut off, or holds objects, which "
            "could run code; write it with torch.save(model.state_dict(), 'weights.pt')"
        ) from None
    state = next((state[name] for name in INSIDE if isinstance(state.get(name), dict)), state)
    state = {name.removeprefix("module."): value for name, value in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{weights} does not fit {network.model}: {error}") from None
    return model.to(device(args)).eval(), network.readout


def device(args: argparse.Namespace) -> torch.device:
    """Return the device that was asked for, or the fastest.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if args.device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(args.device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device} is not here: {error}") from None
    return chosen


def _builder(name: str) -> Callable[..., Any]:
    if name in BUILT_IN:
        built_in: Callable[..., Any] = getattr(models, name)
        return built_in
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(
            f"--model must be one of {', '.join(BUILT_IN)}, a folder of `advphotoz train` or "
            f"MODULE:BUILDER, got {name!r}"
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found = getattr(importlib.import_module(module), function, None)
    if not callable(found):
        raise ValueError(f"the module {module} has no class or function {function!r}")
    builder: Callable[..., Any] = found
    return builder
