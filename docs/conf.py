"""The documentation site: `make docs` builds it, offline, and every warning is an error."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import mlflow  # noqa: F401  (before autodoc, which imports with TYPE_CHECKING on: mlflow's own circles break then)

sys.path.insert(0, str(Path(__file__).parent))

project = "emoray"
author = "the emoray contributors"
project_copyright = f"%Y, {author}"
version = release = metadata.version("emoray")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "_generate.extension",
]
exclude_patterns = ["_build", "_generate"]
nitpicky = True
# Types of other packages have no page here, and their own sites cannot be asked offline.
nitpick_ignore_regex = [
    ("py:.*", r"(?!emoray).*"),
    ("py:.*", r"emoray\..*(Config|\.T|\.Root)"),  # sections of the configuration, and type variables
]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
toc_object_entries = False
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
default_role = "literal"
copybutton_prompt_text = "$ "

html_theme = "pydata_sphinx_theme"
html_title = "emoray"
html_static_path = ["_static"]
html_css_files = ["emoray.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "emoray"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"architecture": [], "performance": [], "models": [], "changelog": []}
