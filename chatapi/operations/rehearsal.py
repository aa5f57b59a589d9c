"""Loads what a worker would, and says why that cannot be done: `python -m chatapi.operations.rehearsal ARGUMENTS`.

The arguments are gunicorn's. Its configuration, the code, the settings, the catalogue and the schema of the database
are looked at; nothing is served, and a database that is away is no reason against a reload.
"""

import sys
from contextlib import suppress

from gunicorn.app.wsgiapp import WSGIApplication

from ..errors import SchemaError, StoreUnavailable
from ..settings import SettingsError


def main() -> None:
    """End with status 1 and the reason where a worker could not boot."""
    try:
        app = WSGIApplication().load()
        with suppress(StoreUnavailable):
            app.extensions["chatapi"].store.check()
    except (SettingsError, SchemaError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
