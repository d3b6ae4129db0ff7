"""What a reader must know of a network that its weights do not say."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

__all__ = ["ModelCard"]


@dataclass(frozen=True)
class ModelCard:
    """A model card (Mitchell et al. 2019, arXiv:1810.03993), in the words of who trained it.

    Class, number of parameters and digest of the weights are added by the report. What is left
    empty appears as "not stated".

    Attributes
    ----------
    name : str
        What the network is called.
    training_data : str
        Survey, number of galaxies, ranges of magnitude and redshift, what was left out.
    intended_use : str
        For which galaxies its redshifts are meant.
    defenses : str
        Adversarial training or others, with their budget.
    certified : str
        What is proven rather than measured, such as the bounds of median smoothing.
    limits : str
        Where it is known to fail.

    Examples
    --------
    >>> ModelCard("CNN", training_data="5,000 simulated galaxies").stated()["Defenses"]
    'not stated'
    """

    name: str = ""
    training_data: str = ""
    intended_use: str = ""
    defenses: str = ""
    certified: str = ""
    limits: str = ""

    def stated(self) -> dict[str, str]:
        """Return the lines of the card, by title."""
        titles = {f.name: f.name.replace("_", " ").capitalize() for f in dataclasses.fields(self)}
        titles["certified"] = "Certified parts"
        return {titles[k]: v or "not stated" for k, v in dataclasses.asdict(self).items()}
