"""docs/*.md -> a site: `sphinx-build -W docs docs/_build`."""

import re

import nanlab

project = "nanlab"
author = "nanlab's maintainers"
copyright = "nanlab's maintainers, Apache-2.0"
release = nanlab.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_class_signature = "separated"
# Single backticks are code, as in Markdown.
default_role = "code"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
# What has no reader here: a grid file is shown as it is.
highlight_language = "text"

html_theme = "furo"
html_title = f"nanlab {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def setup(app):
    """A link to Markdown outside docs/ leads to that file itself, which is no page here."""

    def outside(app, page, source):
        depth = page.count("/") + 1
        up = re.escape("../" * depth)
        source[0] = re.sub(rf"\]\(({up}[^)]+\.md)\)", r"](path:\1)", source[0])

    app.connect("source-read", outside)
