"""How Sphinx builds the site from what `gather.py` has gathered; `make docs` runs both."""

from __future__ import annotations

import re

import interp_plugins

project = "interp_plugins"
author = "The interp_plugins authors"
copyright = author
version = release = interp_plugins.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
exclude_patterns = ["**/.ipynb_checkpoints", "**/*.py"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = (
    "off"  # `make docs EXECUTE=1` has run them before, without a network; else outputs are those committed
)
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say what arguments are, with shapes and units
autodoc_inherit_docstrings = True
default_role = "code"  # what stands between single backticks in a docstring
napoleon_numpy_docstring = False
napoleon_use_param = False  # what stands in brackets behind an argument is a shape or a unit as often as a type
napoleon_use_ivar = True
# Types of other packages: the build fetches nothing, so there is nothing to link to.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|pandas|matplotlib|collections|typing|pathlib|types|fastai)\..*"),
    # types of fields, which one reads and does not make
    (
        "py:class",
        r"interp_plugins\.(insights\.outcomes\.Truth|metrics\.(comparison\.Check|statistics\.PairedDifference)"
        r"|concept\.(place\.Place|crops\.Crop|bank\.BankSource))",
    ),
]

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
# Pages without pages below them need no list of these.
html_sidebars = {name: [] for name in ("concepts", "faq", "gallery", "index", "install", "which-method")}
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 5,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

FIELDS = ("attribute", "data", "property")
SECTION = re.compile(r"(?:Examples?|Returns|Yields):$")


def sections(lines):
    """Pieces of a docstring: (heading or None, its indent, the lines behind it)."""
    found = [(None, 0, [])]
    for line in lines:
        indent = len(line) - len(line.lstrip())
        heading, margin, _body = found[-1]
        if heading and line.strip() and indent <= margin:
            found.append((None, 0, []))
        if SECTION.fullmatch(line.strip()):
            found.append((line.strip(), indent, []))
        else:
            found[-1][2].append(line)
    return found


def escaped(line):
    """A line in which only code between backticks is markup, also where a letter follows it."""
    parts = re.split(r"(`[^`]*`(?=\w)|`[^`]*`)", line)
    for i in range(0, len(parts), 2):
        behind_code = i and re.match(r"\w", parts[i])
        parts[i] = re.sub(r"(?<!\\)([*|])|(?<=\w)_(?!\w)", r"\\\g<0>", parts[i])
        parts[i] = "\\ " + parts[i] if behind_code else parts[i]
    return "".join(parts)


def formulas(lines):
    """Lines of a module's docstring, with blocks that are set in by four as literal blocks."""
    found, literal = [], False
    for before, line in zip(["", *lines], lines):
        if line.startswith("    ") and not before.strip() and not literal:
            literal = True
            found += ["::", ""]
        literal = literal and (not line.strip() or line.startswith("    "))
        found.append(line if literal else escaped(line))
    return found


def rst(app, what, name, obj, options, lines):
    """Docstrings are plain text and code; what would be markup in reStructuredText is made to stand for itself."""
    found = []
    for heading, indent, body in sections(lines):
        margin = " " * indent
        if heading is None:
            found += formulas(body) if what == "module" else map(escaped, body)
        elif heading.startswith("Example"):
            found += [margin + heading, f"{margin}    .. code-block:: python", "", *("    " + line for line in body)]
        else:  # sentences, which napoleon would read as `type: what`
            text = [escaped(line.strip()) for line in body]
            found += [f"{margin}:{heading.lower()[:-1]}: {text[0]}", *(f"{margin}    {line}" for line in text[1:]), ""]
    lines[:] = found
    if what in FIELDS:
        app.fields[name] = found


def as_it_was(app, what, name, obj, options, lines):
    """Give a property its sentence back: napoleon reads all before a colon as its type."""
    if what in FIELDS:
        lines[:] = app.fields.pop(name)


def setup(app):
    """Around napoleon (priority 500), which reads the sections."""
    app.fields = {}
    app.connect("autodoc-process-docstring", rst, priority=400)
    app.connect("autodoc-process-docstring", as_it_was, priority=600)
