"""The code itself, as tests read it."""

import ast
import functools
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[2] / "chatapi"


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Every file of chatapi by its place there, parsed once for all tests."""
    paths = sorted(HOUSE.rglob("*.py"))
    return {path.relative_to(HOUSE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}
