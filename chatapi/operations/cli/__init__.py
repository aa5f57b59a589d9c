"""What operators type: `flask --app wsgi keys|usage|db|migrate|doctor …`. Every command takes `--json`."""

import click
from flask import Flask
from flask.cli import FlaskGroup

from ...settings import SettingsError
from . import database, doctor, keys, migrate, usage
from .commands import format_mistakes, translate


def init_app(app: Flask) -> None:
    """Add the commands."""
    for command in (keys.keys, usage.usage, database.db, migrate.migrate, doctor.doctor):
        translate(command)
        app.cli.add_command(command)


def create_bare_app(error: SettingsError) -> Flask | None:
    """For Flask's command line, an application of which `doctor` can tell what is wrong; None anywhere else."""
    context = click.get_current_context(silent=True)
    if context is None:
        return None
    if not isinstance(context.command, FlaskGroup):  # `flask run` and the like would serve it
        raise click.ClickException(format_mistakes(error))
    app = Flask("chatapi", static_folder=None)
    app.extensions["chatapi"] = error
    init_app(app)
    return app
