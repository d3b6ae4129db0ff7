"""The standard attack: one ensemble under one name and version, for any perturbation set."""

from __future__ import annotations

from collections.abc import Sequence

from advphotoz.attacks.apgd import APGD
from advphotoz.attacks.gradient import as_set
from advphotoz.attacks.square import Square
from advphotoz.attacks.worst_of import WorstOf
from advphotoz.objectives import (
    LogOdds,
    Objective,
    RedshiftError,
    SignedRedshift,
    default_objective,
)
from advphotoz.perturbations import PerturbationSet
from advphotoz.redshift import Readout, RedshiftBins

__all__ = ["standard"]

TITLE = "advphotoz-standard-1"
SIGNED_STEPS, OTHER_STEPS, QUERIES = 20, 10, 100


def standard(
    perturbations: PerturbationSet | float | Sequence[float],
    readout: Readout,
    *,
    enough: float | None = None,
    draws: int = 1,
) -> WorstOf:
    r"""Return the standard attack, to compare networks by: ``advphotoz-standard-1``.

    Four searches; each galaxy keeps the images with the largest
    :math:`|\Delta z| = |z_{phot} - z_{spec}| / (1 + z_{spec})` that any of them found:

    1. `APGD` of 20 steps for a larger redshift,
    2. `APGD` of 20 steps for a smaller one,
    3. `APGD` of 10 steps, from a random start, on the log odds against the true bin, whose gradient
       no saturated softmax can hide (`LogOdds`; on the negative log-likelihood for PDFs that are no
       bins, on the error of the redshift where there is none),
    4. `Square` of 100 candidates, for networks whose gradients lie.

    Its budget is 50 gradients and 107 forward passes per galaxy (``standard(...).budget``). What
    these are will not change under this name; another choice gets another version.

    Parameters
    ----------
    perturbations : PerturbationSet, float or sequence of float
        What may change; a number, or one per band, is the radius of a `LinfBall`.
    readout : Readout
        How the network's output becomes a redshift, as given to `evaluate`.
    enough : float, optional
        For those who want the share of outliers alone: a galaxy whose :math:`|\Delta z|` is above
        this, 0.05 say, is left as it is. Then the other metrics are no worst case, and the name
        says so.
    draws : int
        For a network that is random in eval mode: every search sees the mean output over this many
        draws. The budget is that many times larger.

    Returns
    -------
    WorstOf
        An attack like any other, with all that it consists of in its ``repr``.

    References
    ----------
    Croce and Hein 2020 (arXiv:2003.01690), whose AutoAttack is the standard for classifiers; Tramer
    et al. 2020 (arXiv:2002.08347) on what no standard attack can see.

    Examples
    --------
    >>> from advphotoz import RedshiftBins, standard
    >>> attack = standard(0.01, RedshiftBins(0.0, 0.4, 180))
    >>> attack.name, attack.budget
    ('advphotoz-standard-1 0.01', Budget(gradients=50, forward=107))
    """
    chosen = as_set(perturbations, "standard")
    signed = [
        APGD(chosen, steps=SIGNED_STEPS, objective=SignedRedshift(readout, sign))
        for sign in (1, -1)
    ]
    objective: Objective = default_objective(readout)
    if isinstance(readout, RedshiftBins) and readout.n > 1:
        objective = LogOdds(readout)
    other = APGD(chosen, steps=OTHER_STEPS, random_start=True, objective=objective)
    damage = RedshiftError(readout)
    return WorstOf(
        (*signed, other, Square(chosen, queries=QUERIES, objective=damage)),
        damage,
        title=TITLE if enough is None else f"{TITLE} (beyond {enough:g} alone)",
        enough=enough,
        draws=draws,
    )
