"""Evaluation: models and attacks in; a result out that prints as a table and saves as JSON."""

from advphotoz.evaluation.curve import CurvePoint, RobustnessCurve, robustness_curve
from advphotoz.evaluation.evaluate import evaluate
from advphotoz.evaluation.landscape import loss_landscape
from advphotoz.evaluation.results import Evaluation
from advphotoz.evaluation.row import Row
from advphotoz.evaluation.sanity import Check, Sanity
from advphotoz.evaluation.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "Check",
    "CurvePoint",
    "Evaluation",
    "RobustnessCurve",
    "Row",
    "Sanity",
    "TransferMatrix",
    "evaluate",
    "loss_landscape",
    "robustness_curve",
    "transfer_matrix",
]
