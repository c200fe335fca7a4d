"""How the documentation is built: `make docs`, or `sphinx-build -W -b html docs docs/_build/html`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the two extensions below lie here

project = "sciflow"
author = "The sciflow developers"
copyright = "The sciflow developers, Apache-2.0"

extensions = ["myst_nb", "sphinx.ext.autodoc", "docstrings", "public_tables"]
exclude_patterns = ["_build", "*.py", "**/.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb", ".py": "myst-nb"}

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}  # docs/notebooks is a link to notebooks/
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "notebooks")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures show defaults; types and units stand in the text
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = "sciflow"
