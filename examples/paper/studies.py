"""What the paper could not show: changes of colour, and the loss around a galaxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from advphotoz import UniformNoise
from advphotoz.evaluation import loss_landscape

from .plan import EPS, OBJECTIVE, STANDARD, Training
from .steps import write_json
from .work import Work

__all__ = ["colours", "landscape", "write_catalogue"]

APERTURE = 12  # pixels, 4.8 arcsec on SDSS images


def write_catalogue(work: Work, path: Path) -> None:
    """Keep what is known of the test galaxies besides their images."""
    columns = work.galaxies.catalogue(work.scale.n_test)
    write_json(path, {name: [round(v, 5) for v in c.tolist()] for name, c in columns.items()})


def colours(work: Work, trainings: list[Training], path: Path) -> None:
    """Keep what each attack does to the colour g - i within an aperture: the median change."""
    test = work.galaxies.test(work.scale.n_curve)
    x, ebv, z = next(iter(torch.utils.data.DataLoader(test, len(test))))
    attacks = {"noise": UniformNoise(EPS), **STANDARD}
    body: dict[str, dict[str, float]] = {}
    for training in trainings:
        model = work.load(training)
        given = [value.to(work.device) for value in (x, z, ebv)]
        body[training.name] = {}
        for name, attack in attacks.items():
            generator = torch.Generator(work.device).manual_seed(0)
            x_adv = attack(model, given[0], given[1], (given[2],), generator).cpu()
            change = (_g_minus_i(x_adv) - _g_minus_i(x)).abs()
            body[training.name][name] = float(change.nanmedian())
    write_json(path, body)


def _g_minus_i(x: torch.Tensor) -> torch.Tensor:
    """Return the colour in magnitudes of the light near the middle; NaN without light."""
    axes = (torch.arange(n) - (n - 1) / 2 for n in x.shape[2:])
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    flux = x[..., rows.square() + columns.square() <= APERTURE**2].double().sum(-1)
    return -2.5 * torch.log10(flux[:, 1] / flux[:, 3])


def landscape(work: Work, trainings: list[Training], path: Path) -> None:
    """Keep the losses along PGD-10's direction and a random one, and in the plane of both.

    Along the lines it is the loss minus that of the clean image, for up to 64 galaxies. The plane
    is that around the galaxy whose loss PGD-10 raises by the median amount in the first network.
    """
    test = work.galaxies.test(min(64, work.scale.n_curve))
    x, ebv, z = next(iter(torch.utils.data.DataLoader(test, len(test))))
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    random = EPS * signs.to(x.dtype)
    radii = [k / 10 for k in range(-10, 31)]
    grid = [k / 10 for k in range(-20, 21, 2)]
    body: dict[str, Any] = {"radii": radii, "grid": grid, "lines": {}, "planes": {}}
    k = None
    for training in trainings:
        model = work.load(training)
        where = [value.to(work.device) for value in (x, z, ebv)]
        delta = STANDARD["PGD-10"](model, where[0], where[1], (where[2],)).cpu() - x
        ways = {"PGD-10": delta, "random signs": random}
        lines = {
            name: loss_landscape(model, x, z, [way], radii, OBJECTIVE, (ebv,))
            for name, way in ways.items()
        }
        zero = radii.index(0.0)
        rise = {name: loss - loss[:, zero : zero + 1] for name, loss in lines.items()}
        body["lines"][training.name] = {
            name: [[round(v, 4) for v in galaxy] for galaxy in values.tolist()]
            for name, values in rise.items()
        }
        if k is None:
            end = rise["PGD-10"][:, radii.index(1.0)]
            k = int(end.argsort()[len(end) // 2])
            body["galaxy"] = {"number": k, "z": float(z[k]), "ebv": float(ebv[k])}
        one = slice(k, k + 1)
        directions = [delta[one], random[one]]
        plane = loss_landscape(model, x[one], z[one], directions, grid, OBJECTIVE, (ebv[one],))
        body["planes"][training.name] = plane[0].tolist()
    write_json(path, body)
