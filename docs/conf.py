"""How Sphinx builds these pages; warnings are errors."""

from importlib.metadata import version as installed_version

project = "trio-sched"
author = "the trio-sched authors"
project_copyright = "2026, the trio-sched authors"
release = version = installed_version("trio-sched")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
]
html_theme = "furo"
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
nitpicky = False
myst_heading_anchors = 3
exclude_patterns = ["_build"]
