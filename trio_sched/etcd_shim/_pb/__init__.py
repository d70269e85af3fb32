"""Generated messages and stubs. Never edited: run ``nox -s generate``."""
