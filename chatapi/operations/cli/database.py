"""`flask --app wsgi db …`: the database's schema."""

from ...accounting.tables import STEPS
from ...languages import N_, _
from .commands import Group, Output, components

db = Group("db", help=N_("The database."))


@db.command(help=N_("Bring the database's schema to this version. Stop nothing: it takes moments."))
def upgrade() -> Output:
    store, schema = components().store, len(STEPS)
    steps = store.upgrade()
    text = _("{database}: schema {schema} (steps taken: {steps})", database=store, schema=schema, steps=steps)
    return Output({"schema": schema, "steps": steps}, text)


@db.command(help=N_("Which schema the database has, and which one this version needs."))
def status() -> Output:
    store, needed = components().store, len(STEPS)
    found = store.schema_version()
    text = _("{database}: schema {found}, needed {needed}", database=store, found=found, needed=needed)
    return Output({"database": str(store), "schema": found, "needed": needed}, text)
