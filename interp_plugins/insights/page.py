"""The page itself: the modules of `static/` as one script, and the HTML frame around it.

The modules import each other in one direction. They are put together when a page is made, by plain concatenation in the
order of their imports, so that a source tree and an installed wheel give the same script and a saved file needs nothing
beside it.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from html import escape
from importlib.resources import files
from string import Template

from interp_plugins.core.text import legible

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async function|function|class|const|let)\b)", re.MULTILINE)
_BEHAVIOURS = "({})"  # in kinds.js, and nowhere else

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>$style</style>
</head>
<body>
<div id="insights"></div>
<noscript>This page draws its pictures in the browser and needs JavaScript.</noscript>
$data<script type="module" async>$script</script>
""")


def asset(name: str) -> str:
    """The text of a file under `static/`."""
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")


@cache
def script(entry: str, behaviours: str = "{}") -> str:
    """A module of `static/` and all that it imports, as the text of one module.

    Its import lines and the word "export" before a declaration are taken out. The modules then share one scope, so no
    name may be declared at the top of two of them.

    Args:
        entry: "app.js" for the viewer in anywidget's convention, or the host that starts it: "file_host.js" in a saved
            file, "socket_host.js" behind the local server.
        behaviours: what records do (`records.behaviours`).
    """
    texts: dict[str, str] = {}

    def add(name: str) -> None:
        text = asset(name)
        for needed in _IMPORT.findall(text):
            if needed not in texts:
                add(needed)
        texts[name] = _EXPORT.sub("", _IMPORT.sub("", text)).strip().replace(_BEHAVIOURS, f"({behaviours})")

    add(entry)
    return "\n\n".join(texts.values()) + "\n"


def page(script: str, title: str, data: str = "", connect: str = "'none'") -> str:
    """The HTML frame around a script; nothing but that script runs in it.

    Args:
        script: the text of the module that is run.
        title: of the document.
        data: blocks of JSON, for the host.
        connect: the addresses that the page may talk to, as in a Content-Security-Policy.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )
    policy = escape(policy, quote=False).replace('"', "&quot;")
    heading = escape(legible(title))
    return _PAGE.substitute(policy=policy, title=heading, style=asset("insights.css"), data=data, script=script)
