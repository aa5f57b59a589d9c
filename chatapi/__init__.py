"""A self-hosted chat-completion gateway for Hugging Face models."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from .settings import Settings


def create_app(settings: "Settings | None" = None) -> "Flask":
    """The Flask application, with `settings` or those of the environment. Raises SettingsError."""
    # Imported here so that gunicorn's master, which reads the settings only, loads neither Flask nor requests:
    # those must not be imported before a gevent worker has patched the standard library.
    from . import web
    from .components import build
    from .operations import cli
    from .settings import Settings, SettingsError

    try:
        parts = build(settings or Settings.from_env())
    except SettingsError as error:
        if (bare := cli.without_parts(error)) is None:
            raise
        return bare
    app = web.create(parts)
    cli.init_app(app)
    return app
