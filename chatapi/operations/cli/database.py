"""`flask --app wsgi db …`: the database's schema."""

import click

from ...accounting.tables import STEPS
from ...languages import N_, _
from .groups import Group, as_json, components
from .printing import print_json

db = Group("db", help=N_("The database."))


@db.command(help=N_("Bring the database's schema to this version. Stop nothing: it takes moments."))
@as_json
def upgrade(as_json: bool) -> None:
    store = components().store
    steps = store.upgrade()
    if as_json:
        print_json({"schema": len(STEPS), "steps": steps})
    else:
        text = _("{database}: schema {schema} (steps taken: {steps})", database=store, schema=len(STEPS), steps=steps)
        click.echo(text)


@db.command(help=N_("Which schema the database has, and which one this version needs."))
@as_json
def status(as_json: bool) -> None:
    store = components().store
    found = store.schema_version()
    if as_json:
        print_json({"database": str(store), "schema": found, "needed": len(STEPS)})
    else:
        click.echo(_("{database}: schema {found}, needed {needed}", database=store, found=found, needed=len(STEPS)))
