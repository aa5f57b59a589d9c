"""The house's rules, read from its imports: imports go down only, and each library has one door.

A room is a module or package right under `chatapi/`; a floor is a set of rooms that do not import each other.
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

HOUSE = Path(__file__).parent.parent / "chatapi"

FLOORS = (
    {"languages"},
    {"errors", "limits"},
    {"settings", "chat"},
    {"catalogue", "circuit"},
    {"health", "prompts", "schemas", "store", "telemetry", "tokens", "tracing"},
    {"huggingface", "access", "books", "engine", "embedded"},
    {"wiring"},
    {"doctor"},
    {"web", "cli", "worker"},
    {"__init__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Rooms that may import less than all that is below them.
ONLY = {
    "engine": {"chat", "catalogue", "circuit", "errors"},
    "huggingface": {"errors", "settings", "chat", "catalogue", "prompts"},
}

# Library → the files (or folders) that may import it.
DOORS = {
    "flask": ("web/", "cli.py", "__init__.py"),
    "werkzeug": ("web/", "cli.py", "__init__.py"),
    "marshmallow": ("schemas.py",),
    "requests": ("huggingface/transport.py",),
    "urllib3": ("huggingface/transport.py",),
    "sqlalchemy": ("store.py",),
    "limits": ("access.py",),
    "redis": ("books.py",),
    "opentelemetry": ("tracing.py",),
    "prometheus_client": ("telemetry.py",),
    "gunicorn": ("worker.py",),
    "gevent": ("worker.py",),
    "xllamacpp": ("embedded.py",),
    "tokenizers": ("tokens.py",),
    "dotenv": ("settings.py",),
    "os.environ": ("settings.py",),
}

EMPTY_NAMES = {"util", "helper", "common", "base", "manager", "service", "misc"}


class Import(NamedTuple):
    """`at` is where it stands, `target` the dotted module (and name) it brings in."""

    at: str
    line: int
    target: str
    lazy: bool


def imports_of(root, path):
    """Every import in a file, relative ones made absolute, `os.environ` and `os.getenv` counted as one."""
    at = path.relative_to(root).as_posix()
    package = [root.name, *path.relative_to(root).parts[:-1]]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    deferred = {id(inner) for block in ast.walk(tree) if _defers(block) for inner in ast.walk(block)}
    for node in ast.walk(tree):
        for target in _targets(node, package):
            yield Import(at, node.lineno, target, id(node) in deferred)


def _defers(node):
    guard = node.test if isinstance(node, ast.If) else None
    name = getattr(guard, "id", getattr(guard, "attr", ""))
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or name == "TYPE_CHECKING"


def _targets(node, package):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        return [f"{module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
        return ["os.environ"] if node.attr in ("environ", "environb", "getenv", "putenv") else []
    return []


def room_of(root, target):
    """The room that `target` is in, or None for what is not of this house."""
    house, _, rest = target.partition(".")
    if house != root.name:
        return None
    name = rest.partition(".")[0]
    is_room = (root / f"{name}.py").is_file() or (root / name / "__init__.py").is_file()
    return name if is_room else "__init__"


def breaches(root):
    """What breaks the rules, a line each: place, and what is wrong."""
    return [line for path in sorted(root.rglob("*.py")) for line in breaches_in(root, path)]


def breaches_in(root, path):
    room = path.relative_to(root).parts[0].removesuffix(".py")
    found = []
    if room not in FLOOR_OF:
        found.append(f"{path.name}: the room {room!r} is on no floor")
    if any(word.rstrip("s") in EMPTY_NAMES for word in path.stem.split("_")):
        found.append(f"{path.name}: a name that says nothing")
    for one in imports_of(root, path):
        place = f"{one.at}:{one.line}"
        to = room_of(root, one.target)
        if to is not None and to != room:
            found += [f"{place}: {wrong}" for wrong in _wrong_way(room, to)]
        for library, doors in DOORS.items():
            if (one.target + ".").startswith(library + ".") and not one.at.startswith(doors):
                found.append(f"{place}: {library} belongs in {', '.join(doors)}")
        if one.at == "__init__.py" and not one.lazy and one.target.partition(".")[0] not in sys.stdlib_module_names:
            found.append(f"{place}: the factory imports {one.target} when it is itself imported")
    return found


def _wrong_way(room, to):
    if FLOOR_OF.get(to, len(FLOORS)) >= FLOOR_OF.get(room, -1):
        yield f"{room} may not import {to}: it is not below"
    elif to not in ONLY.get(room, {to}):
        yield f"{room} may import {', '.join(sorted(ONLY[room]))} only, not {to}"


# --- the house


@pytest.mark.parametrize("path", sorted(HOUSE.rglob("*.py")), ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_a_module_keeps_the_rules(path):
    assert breaches_in(HOUSE, path) == []


def test_the_house_has_rooms():
    rooms = {path.relative_to(HOUSE).parts[0].removesuffix(".py") for path in HOUSE.rglob("*.py")}
    assert {"errors", "chat", "catalogue", "huggingface", "engine", "wiring", "web", "__init__"} <= rooms


@pytest.mark.parametrize("module", ["chatapi", "chatapi.settings"])
def test_importing_the_factory_or_the_settings_loads_no_library_that_gevent_has_to_patch(module):
    """gunicorn's master reads the settings before a worker has patched the standard library."""
    patched = {"flask", "requests", "urllib3", "marshmallow", "ssl"}
    script = f"import sys, {module}; print(*{patched} & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=HOUSE.parent, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []


# --- the checker itself

ALLOWED = {
    "errors.py": "import json\n",
    "chat.py": "from .errors import ChatError\n",
    "catalogue.py": "from .chat import Message\nfrom . import errors\n",
    "engine.py": "from .catalogue import Card\n",
    "huggingface/__init__.py": "from ..chat import Call\nfrom . import transport\n",
    "huggingface/transport.py": "import requests\nimport urllib3.util\nfrom urllib3 import PoolManager\n",
    "settings.py": "import os\nfrom dotenv import dotenv_values\nfound = os.environ\n",
    "wiring.py": "from .huggingface import Client\nfrom . import engine, errors\n",
    "web/__init__.py": "from flask import Flask\nfrom . import gate\n",
    "web/gate.py": "from werkzeug.exceptions import NotFound\nfrom ..wiring import build\n",
    "__init__.py": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .settings import Settings\n"
        "def create_app():\n    from . import web\n"
    ),
}


@pytest.fixture
def house(tmp_path):
    """Builds a package that keeps the rules, but for the files given."""

    def build(**changed):
        root = tmp_path / "chatapi"
        for name, text in {**ALLOWED, **changed}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return root

    return build


def test_the_checker_passes_a_house_that_keeps_the_rules(house):
    assert breaches(house()) == []


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("errors.py", "from .chat import Call", "errors may not import chat"),
        ("chat.py", "from . import catalogue", "chat may not import catalogue"),
        ("chat.py", "from .settings import Settings", "chat may not import settings"),
        ("chat.py", "import chatapi.settings", "chat may not import settings"),
        ("chat.py", "from chatapi import settings", "chat may not import settings"),
        ("chat.py", "from chatapi import create_app", "chat may not import __init__"),
        ("chat.py", "def later():\n    from .engine import Engine", "chat may not import engine"),
        ("engine.py", "from .huggingface import Client", "engine may not import huggingface"),
        ("engine.py", "from .settings import Settings", "engine may import"),
        ("huggingface/transport.py", "from ..wiring import build", "huggingface may not import wiring"),
        ("huggingface/transport.py", "from .. import engine", "huggingface may not import engine"),
        ("huggingface/transport.py", "from ..schemas import job", "huggingface may not import"),
        ("wiring.py", "from .web import create", "wiring may not import web"),
        ("web/gate.py", "from .. import cli", "web may not import"),
        ("cli.py", "from .web import gate", "cli may not import web"),
        ("engine.py", "from flask import request", "flask belongs"),
        ("engine.py", "import flask.json", "flask belongs"),
        ("engine.py", "from werkzeug import Response", "werkzeug belongs"),
        ("web/gate.py", "import marshmallow", "marshmallow belongs"),
        ("huggingface/__init__.py", "import requests", "requests belongs"),
        ("engine.py", "from urllib3.exceptions import HTTPError", "urllib3 belongs"),
        ("engine.py", "import sqlalchemy as sa", "sqlalchemy belongs"),
        ("web/gate.py", "import limits.storage", "limits belongs"),
        ("web/gate.py", "import redis", "redis belongs"),
        ("engine.py", "from prometheus_client import Counter", "prometheus_client belongs"),
        ("engine.py", "import xllamacpp", "xllamacpp belongs"),
        ("engine.py", "import os\nx = os.environ['A']", "os.environ belongs"),
        ("engine.py", "import os\nx = os.getenv('A')", "os.environ belongs"),
        ("engine.py", "from os import environ", "os.environ belongs"),
        ("__init__.py", "from . import web", "when it is itself imported"),
        ("__init__.py", "from flask import Flask", "when it is itself imported"),
        ("cellar.py", "", "on no floor"),
        ("web/utils.py", "", "says nothing"),
        ("web/auth_helpers.py", "", "says nothing"),
        ("huggingface/base.py", "", "says nothing"),
    ],
)
def test_the_checker_finds_a_breach(house, name, text, words):
    found = breaches(house(**{name: text}))
    assert [line for line in found if words in line and name.rpartition("/")[2] in line], found


def test_a_word_that_only_begins_like_a_library_is_no_breach(house):
    text = "import flaskish\nfrom limitless import x\nimport redistribute\n"
    assert breaches(house(**{"engine.py": text})) == []


def test_a_requests_own_environ_is_not_the_process_environment(house):
    assert breaches(house(**{"web/gate.py": "from flask import request\nx = request.environ\n"})) == []
