"""What import-linter (see pyproject.toml) cannot say: who reads the environment, what gunicorn's master loads."""

import ast

import pytest
from support.gateways import python
from support.house import HOUSE, trees


def _reads_environment(tree):
    names = {"environ", "environb", "getenv", "putenv"}
    attributes = (n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name))
    imports = (a for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "os" for a in n.names)
    return any(n.value.id == "os" and n.attr in names for n in attributes) or any(a.name in names for a in imports)


def test_the_settings_alone_read_the_environment():
    assert [name for name, tree in trees().items() if _reads_environment(tree)] == ["settings.py"]


MASTER = "runpy.run_path('gunicorn.conf.py')"


@pytest.mark.parametrize("what", ["import chatapi", "import chatapi.settings", MASTER])
def test_gunicorns_master_loads_no_library_that_gevent_has_to_patch(what):
    """The master reads settings, and makes what workers share, before a worker has patched the standard library."""
    patched = {"flask", "requests", "urllib3", "marshmallow", "ssl", "gevent"}
    loaded = python(f"import runpy, sys; {what}; print(*{patched} & set(sys.modules))", folder=HOUSE.parent)
    assert (loaded.stdout.split(), loaded.returncode) == ([], 0), loaded.stderr
