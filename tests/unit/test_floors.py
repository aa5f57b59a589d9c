"""What import-linter (see pyproject.toml) cannot say: who reads the environment, what gunicorn's master loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2] / "chatapi"


def _reads_environment(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {"environ", "environb", "getenv", "putenv"}
    attributes = (n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name))
    imports = (a for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "os" for a in n.names)
    return any(n.value.id == "os" and n.attr in names for n in attributes) or any(a.name in names for a in imports)


def test_the_settings_alone_read_the_environment():
    readers = [path.relative_to(HOUSE).as_posix() for path in HOUSE.rglob("*.py") if _reads_environment(path)]
    assert readers == ["settings.py"]


@pytest.mark.parametrize("module", ["chatapi", "chatapi.settings", "chatapi.embedded", "chatapi.operations.worker"])
def test_gunicorns_master_loads_no_library_that_gevent_has_to_patch(module):
    """The master reads settings and worker class before a worker has patched the standard library."""
    patched = {"flask", "requests", "urllib3", "marshmallow", "ssl"}
    before = "import gunicorn.workers.ggevent, sys; before = set(sys.modules);" if "worker" in module else ""
    script = f"{before}import sys, {module}; print(*({patched} & set(sys.modules)) - {'before' if before else 'set()'})"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=HOUSE.parent, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []
