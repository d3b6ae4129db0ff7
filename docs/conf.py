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

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "imported-members": True}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

myst_enable_extensions = ["amsmath", "dollarmath", "substitution"]
myst_heading_anchors = 3
# The demo's picture appears on the front page once it has been copied here.
myst_substitutions = {
    "demo_picture": (
        "![Predicted against spectroscopic redshift, clean and attacked](_static/demo.png)"
        if (HERE / "_static" / "demo.png").exists()
        else ""
    ),
}

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
