"""A seeded sample of SDSS-like galaxies, drawn once and kept on disk: `simulate` and its cache."""

from __future__ import annotations

import hashlib
import json
import os
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from advphotoz._checks import check_at_least_one, require
from advphotoz._files import check_folder
from advphotoz.datasets.cutouts import CutoutDataset
from advphotoz.datasets.npy_files import read_npz
from advphotoz.datasets.simulation.workers import Chunk, draw_chunks

__all__ = ["available_cores", "simulate"]

VERSION = 3
"""To be raised whenever the same settings give other pixels: old caches are then left alone."""
CHUNK = 128
"""Galaxies per file, about a second's work: what an interrupted run loses per process."""


def simulate(
    n: int,
    seed: int = 0,
    *,
    r_max: float = 17.8,
    size: int = 64,
    workers: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> CutoutDataset:
    """Simulate n galaxies as the SDSS Main Galaxy Sample shows them, with redshift and E(B-V).

    Galaxies follow a luminosity function and the volume; redshifted template spectra, reddened
    by the Galaxy, give a bulge and a disk their fluxes through the SDSS curves; GalSim draws them
    and their neighbours through each band's point-spread function; sky and photon noise come last.
    The page "Simulated galaxies" of the documentation says what is modelled, from which sources,
    and how the sample compares with the real one.

    Galaxy k of a seed has the same pixels whatever n, the number of workers and the order of the
    work. Needs the extra `sim` for what is not in the cache yet. Global random states are neither
    read nor changed.

    Parameters
    ----------
    n : int
        Number of galaxies; at 64 pixels, 84 kB each in memory and on disk.
    seed : int
        Names the sample, 0 or larger. `simulate(10, s)` is the beginning of `simulate(20, s)`.
    r_max : float
        Faintest r magnitude, before Galactic reddening; between 15 and 20.
    size : int
        Pixels of 0.396 arcsec along one side of the stamp.
    workers : int, optional
        Processes; as many as there are cores by default. With 1 all work is done in this one.
    cache_dir : path, optional
        Where finished galaxies are kept, in one folder per group of settings, and looked up.
        Default: the environment variable `ADVPHOTOZ_CACHE`, else `~/.cache/advphotoz`. An
        interrupted call continues there when it is repeated. Any of it may be deleted.
    progress : bool
        Whether to show a progress bar on stderr while galaxies are drawn.

    Returns
    -------
    CutoutDataset
        `image` (n, 5, size, size) in nanomaggies, bands ugriz; `ebv` (n,) in magnitudes; `z` (n,);
        and in `catalogue`, each (n, 5): `mag`, the observed magnitudes (asinh, as SDSS defines
        them, not corrected for Galactic extinction), `mag_err`, their one-sigma errors, and
        `flux`, the noiseless total flux in nanomaggies, reddened.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or a file of the cache is broken (the message names it).
    OSError
        If the cache folder cannot be written to; before anything is drawn.
    ImportError
        If galaxies have to be drawn and the extra `sim` is not installed.
    RuntimeError
        If a process fails.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = simulate(2, seed=1, size=32, cache_dir=folder, progress=False)
    >>> data
    <CutoutDataset: 2 images of 5 x 32 x 32 pixels>
    >>> data.catalogue["mag"].shape
    torch.Size([2, 5])
    """
    check_at_least_one(n, "n")
    check_at_least_one(size, "size")
    check_at_least_one(workers if workers is not None else 1, "workers")
    _check_seed(seed)
    if isinstance(r_max, bool) or not isinstance(r_max, Real):
        raise TypeError(f"r_max must be a number of magnitudes, got {r_max!r}")
    if not 15 <= r_max <= 20:
        raise ValueError(f"r_max must lie between 15 and 20 magnitudes, got {r_max!r}")

    n = int(n)  # the processes are told as JSON, which knows no integers of NumPy
    settings = {"seed": int(seed), "r_max": float(r_max), "size": int(size)}
    folder = _folder(settings, cache_dir)
    chunks = []
    for start in range(0, n, CHUNK):
        stop = min(start + CHUNK, n)
        chunks.append(Chunk(start, stop, str(folder / f"galaxies-{start:07d}-{stop:07d}.npz")))
    missing = [chunk for chunk in chunks if not Path(chunk.file).exists()]
    if missing:
        _prepare(folder)
        with tqdm(
            total=sum(chunk.stop - chunk.start for chunk in missing),
            desc="simulating",
            unit="galaxy",
            disable=not progress,
        ) as bar:
            draw_chunks(settings, missing, workers or available_cores(), bar.update)
    return _load(chunks, size)


def _check_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _folder(settings: dict[str, Any], cache_dir: str | os.PathLike[str] | None) -> Path:
    """Return the folder of the cache that belongs to these settings and to no others."""
    if cache_dir is None:
        cache_dir = os.environ.get("ADVPHOTOZ_CACHE") or Path.home() / ".cache" / "advphotoz"
    text = json.dumps({"version": VERSION, "chunk": CHUNK, **settings}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Path(cache_dir).expanduser().absolute() / f"simulated-{key}"


def _prepare(folder: Path) -> None:
    """Fail now rather than after the first chunk: packages missing, or a folder closed to us."""
    for module in ("galsim", "speclite", "astropy", "dust_extinction"):
        require(module, "sim")
    check_folder(
        folder, "name another one with cache_dir or the environment variable ADVPHOTOZ_CACHE"
    )


def _load(chunks: list[Chunk], size: int) -> CutoutDataset:
    """Read the chunks into one data set."""
    n = chunks[-1].stop
    shapes: dict[str, tuple[int, ...]] = {"image": (5, size, size), "ebv": (), "z": ()}
    shapes |= dict.fromkeys(("mag", "mag_err", "flux"), (5,))
    whole = {name: np.empty((n, *shape), np.float32) for name, shape in shapes.items()}
    advice = "delete the file and call again, and its galaxies are simulated anew"
    for start, stop, file in chunks:
        arrays = read_npz(Path(file), shapes, advice)
        for name, shape in shapes.items():
            expected = (stop - start, *shape)
            if arrays[name].shape != expected:
                raise ValueError(
                    f"{file} holds {name!r} of shape {arrays[name].shape}, not {expected}; {advice}"
                )
            whole[name][start:stop] = arrays[name]
    image, ebv, z = (whole.pop(name) for name in ("image", "ebv", "z"))
    return CutoutDataset(image, ebv, z, whole)
