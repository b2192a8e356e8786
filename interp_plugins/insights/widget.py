"""The viewer in a notebook: an anywidget where there is one, else the page in a frame."""

from __future__ import annotations

import importlib.util
from html import escape
from typing import Any

from interp_plugins.insights.page import asset, script
from interp_plugins.insights.session import Session


def widget(session: Session) -> Any:
    """What a notebook cell shows for a session.

    Returns:
        An `anywidget.AnyWidget` (Jupyter, Colab, VS Code, marimo), or, where anywidget is missing, an object that shows
        the maps made so far as a still page.
    """
    return _live(session) if importlib.util.find_spec("anywidget") is not None else StillPage(session)


class StillPage:
    """The viewer's file in a frame; it has no model behind it."""

    def __init__(self, session: Session):
        self.session = session

    def _repr_html_(self) -> str:
        source = escape(self.session.to_html(), quote=True)
        return (
            f'<iframe srcdoc="{source}" sandbox="allow-scripts allow-downloads" width="100%" height="720" '
            'style="border:0" title="Insights"></iframe>'
        )


def _live(session: Session) -> Any:
    import anywidget
    import traitlets

    class Insights(anywidget.AnyWidget):
        """The viewer with its session behind it."""

        _esm = script("app.js")
        _css = asset("insights.css")
        catalogue = traitlets.Dict().tag(sync=True)
        notes = traitlets.Dict().tag(sync=True)

        def __init__(self) -> None:
            super().__init__(catalogue=session.catalogue, notes=session.notes)
            self.session = session
            self.on_msg(lambda _, message, __: session.receive(message, self.send))
            self.observe(self._keep_notes, names="notes")

        def _keep_notes(self, change: Any) -> None:
            session.notes = dict(change["new"])

        def close(self) -> None:
            session.close()
            super().close()

    return Insights()
