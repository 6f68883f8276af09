"""How the documentation is built: `make docs`, without a network, every warning an error."""

import re
import sys
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))  # for recipe_reference

project = "valign"
author = "the valign authors"
project_copyright = "the valign authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "recipe_reference"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "valign"
html_static_path: list[str] = []
html_show_sphinx = False
html_copy_source = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
nitpicky = False
pygments_dark_style = "monokai"


def _outside(app: Sphinx, page: str, source: list[str]) -> None:
    """Name files outside docs/ by their path: in the repository they are links."""
    link = r"\[([^\]]+)\]\((?:\.\./)+((?:cluster|benchmarks|valign|SECURITY)[^)#]*)[^)]*\)"
    source[0] = re.sub(link, r"\1 (`\2`)", source[0])


def setup(app: Sphinx) -> None:
    """Add what pages in the repository need to be pages of a site."""
    app.connect("source-read", _outside)
    app.add_lexer("csv", TextLexer)
