"""One HTML file that says what an evaluation found: to mail, to print, to archive.

It holds its pictures, runs no script and fetches nothing, so that it reads the same in ten years.
The verdict comes first, with what could not be checked. Jinja2 and matplotlib are imported when a
report is made: ``pip install "advphotoz[report]"``.
"""

from advphotoz.html_report.card import ModelCard
from advphotoz.html_report.citation import bibtex
from advphotoz.html_report.write import Picture, html_report, save_html

__all__ = ["ModelCard", "Picture", "bibtex", "html_report", "save_html"]
