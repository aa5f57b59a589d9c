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
    from .languages import LANGUAGES, use
    from .operations import cli
    from .settings import Settings, SettingsError, command_language

    use(command_language(LANGUAGES[0]))
    try:
        settings = settings or Settings.from_env()
        # Requests choose their own; this is for commands, and for what is said while starting.
        use(command_language(settings.language))
        parts = build(settings)
    except SettingsError as error:
        if (bare := cli.create_bare_app(error)) is None:
            raise
        return bare
    app = web.create(parts)
    cli.init_app(app)
    return app
