"""The worst that a survey's own calibration can do, held against what cosmology requires.

A zero point that is off, a sky that is over-subtracted, a PSF that is wider than assumed: each is
small, within the calibration budget, and shared by all galaxies, so that it does not average out.
`worst_systematic` finds the one error that shifts the mean redshift of each tomographic bin most;
`calibration_budget` says how small the errors must be to meet a `Requirement`;
`random_systematics` draws from the same budget at random.
"""

from advphotoz.survey.budget import CalibrationBudget, calibration_budget
from advphotoz.survey.draws import RandomSystematics, random_systematics
from advphotoz.survey.report import MeanShift, WorstSystematic
from advphotoz.survey.requirements import REQUIREMENTS, Requirement
from advphotoz.survey.worst import worst_systematic

__all__ = [
    "REQUIREMENTS",
    "CalibrationBudget",
    "MeanShift",
    "RandomSystematics",
    "Requirement",
    "WorstSystematic",
    "calibration_budget",
    "random_systematics",
    "worst_systematic",
]
