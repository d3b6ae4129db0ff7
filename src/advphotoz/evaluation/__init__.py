"""Evaluation: models and attacks in; a result out that prints as a table and saves as JSON."""

from advphotoz.evaluation.evaluate import evaluate
from advphotoz.evaluation.results import Evaluation
from advphotoz.evaluation.row import Row
from advphotoz.evaluation.sanity import Check, Sanity

__all__ = ["Check", "Evaluation", "Row", "Sanity", "evaluate"]
