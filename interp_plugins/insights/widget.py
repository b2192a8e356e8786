"""The viewer in a notebook: an anywidget where there is one, else the page in a frame."""

from __future__ import annotations

import importlib.util
import secrets
from html import escape
from typing import Any

from interp_plugins.core.concat import joined
from interp_plugins.core.errors import InputError
from interp_plugins.insights.page import asset, script
from interp_plugins.insights.records import behaviours
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


_STILL = 4  # samples in the still view of a saved notebook


def still_view(session: Session) -> str:
    """The first samples that were explained beforehand, as pictures that need no kernel; "" where none was."""
    from interp_plugins.viz.notebook import notebook_html

    made = [found for i in range(min(_STILL, session.subject.n)) if (found := session.subject.given(i))]
    columns = list(zip(*([one.exp for one in several] for several in made), strict=False))
    if not columns:
        return ""
    try:
        return notebook_html([joined(column) for column in columns])
    except InputError:  # samples that do not fit together
        return notebook_html([column[0] for column in columns])


def _live(session: Session) -> Any:
    import anywidget
    import traitlets
    from IPython.display import HTML, display

    class Insights(anywidget.AnyWidget):
        """The viewer with its session behind it."""

        _esm = script("app.js", behaviours(session.records))
        _css = asset("insights.css")
        catalogue = traitlets.Dict().tag(sync=True)
        notes = traitlets.Dict().tag(sync=True)
        still = traitlets.Unicode().tag(sync=True)  # the name of the still view, which the page hides

        def __init__(self) -> None:
            super().__init__(catalogue=session.catalogue, notes=session.notes, still=secrets.token_hex(8))
            self.session = session
            self.on_msg(lambda _, message, __: session.receive(message, self.send))
            self.observe(self._keep_notes, names="notes")

        def _keep_notes(self, change: Any) -> None:
            session.notes = dict(change["new"])

        def _ipython_display_(self) -> None:
            """Show a still view, which a saved notebook keeps, and the viewer, which hides it as long as it lives."""
            if view := still_view(session):
                display(HTML(f'<div data-insights-still="{self.still}">{view}</div>'))
            shown = self._repr_mimebundle_()
            data, about = shown if isinstance(shown, tuple) else (shown, None)
            display(data, metadata=about, raw=True)

        def close(self) -> None:
            session.close()
            super().close()

    return Insights()
