"""Settings of the documentation; `make docs` builds it with warnings as errors."""

from __future__ import annotations

from pathlib import Path

import advphotoz

HERE = Path(__file__).parent

project = "advphotoz"
author = "the advphotoz developers"
copyright = "2026, the advphotoz developers"
version = release = advphotoz.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_generated", "results"]
default_role = "py:obj"

html_theme = "furo"
html_title = "advphotoz"
html_static_path = ["_static"]
html_css_files = ["katex/katex.min.css", "style.css"]
html_js_files = [
    ("katex/auto-render.min.js", {"defer": "defer"}),
    ("equations.js", {"defer": "defer"}),
]

# Equations without a network: Sphinx's extension for MathJax writes them as \\( \\) and loads one
# script on the pages that have any, which is our copy of KaTeX.
mathjax_path = "katex/katex.min.js"
mathjax_options = {"defer": "defer"}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "imported-members": True}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

myst_enable_extensions = ["amsmath", "attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
