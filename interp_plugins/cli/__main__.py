"""`python -m interp_plugins.cli` is `interp-plugins`."""

from interp_plugins.cli import app

if __name__ == "__main__":
    app()
