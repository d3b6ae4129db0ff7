"""Evaluation: networks and attacks in; a report out that prints as a table and saves as JSON."""

from advphotoz.evaluation.checks import Check, Checks
from advphotoz.evaluation.curve import CurvePoint, RobustnessCurve, robustness_curve
from advphotoz.evaluation.evaluate import evaluate
from advphotoz.evaluation.landscape import loss_landscape
from advphotoz.evaluation.report import Evaluation, Row
from advphotoz.evaluation.tally import Tally
from advphotoz.evaluation.tomography import TomographicBin, Tomography
from advphotoz.evaluation.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "Check",
    "Checks",
    "CurvePoint",
    "Evaluation",
    "RobustnessCurve",
    "Row",
    "Tally",
    "TomographicBin",
    "Tomography",
    "TransferMatrix",
    "evaluate",
    "loss_landscape",
    "robustness_curve",
    "transfer_matrix",
]
