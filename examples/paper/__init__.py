"""Campagne 2020 (arXiv:2002.10154) as one experiment; `examples/reproduce_paper.py` runs it."""
