"""How Sphinx builds these pages; warnings are errors."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent))
from references import write_inventory

project = "trio-sched"
author = "the trio-sched authors"
project_copyright = "2026, the trio-sched authors"
release = version = installed_version("trio-sched")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinxcontrib_trio",
    "references",
]
html_theme = "furo"
html_title = "trio-sched"
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
nitpicky = True
nitpick_ignore = [
    ("py:class", "Key"),  # an alias, of bytes | str
    ("py:class", "Ts"),  # a type's variable
]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

# Others' names are in lists of ours: what we link to, and no network to build it.
_folder = TemporaryDirectory()
_lists = Path(__file__).parent / "inventories"
intersphinx_mapping = {
    name: (address, write_inventory(_lists / f"{name}.txt", Path(_folder.name)))
    for name, address in {
        "python": "https://docs.python.org/3",
        "trio": "https://trio.readthedocs.io/en/stable",
    }.items()
}
