"""`make audit` never says that all is well where it could not look, and `docs/licences` names all that is installed."""

import json
import sys

import pytest
from support.gateways import ROOT, ran

from tools import licences

FINE = {"name": "flask", "version": "3.1.3", "vulns": []}
ILL = {"name": "old", "version": "1.0", "vulns": [{"id": "CVE-2026-1", "fix_versions": ["1.1"]}]}
UNKNOWN = {"name": "mine", "skip_reason": "Dependency not found"}


def audited(tmp_path, says, errors=""):
    """What tools/audit.py makes of a pip-audit that prints this."""
    program = tmp_path / "pip-audit"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.stdout.write({says!r})\nsys.stderr.write({errors!r})\n")
    program.chmod(0o755)
    return ran(sys.executable, str(ROOT / "tools" / "audit.py"), str(program), str(tmp_path))


AUDITS = [
    *(([FINE], 0, "1 packages compared"), ([FINE, UNKNOWN], 0, "not known to the source: mine")),
    ([FINE, ILL], 1, "old 1.0: CVE-2026-1, fixed in 1.1"),
    *(([UNKNOWN, UNKNOWN], 2, "nothing was compared"), ([], 2, "nothing was compared")),
]


@pytest.mark.parametrize("packages, status, said", AUDITS)
def test_an_audit_says_what_was_compared(tmp_path, packages, status, said):
    done = audited(tmp_path, json.dumps({"dependencies": packages}))
    assert (done.returncode, said in done.stdout) == (status, True)


def test_an_audit_without_a_source_says_why(tmp_path):
    done = audited(tmp_path, "", "ConnectionError: no route")
    assert done.returncode == 2
    assert "nothing was compared" in done.stdout and "no route" in done.stdout


# ---------------------------------------------------------------- licences

# Of what we only call: MIT's kind, and those whose duties end with their own files.
USABLE = {"MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "PSF-2.0", "ZPL-2.1", "MPL-2.0", "LGPL-3.0-only"}


def test_every_licence_is_known_and_one_that_we_can_use():
    pytest.importorskip("xllamacpp")
    licensed = {name: licence for name, (licence, _) in licences.packages().items()}
    odd = {n: text for n, text in licensed.items() if not set(text.replace(" OR ", " AND ").split(" AND ")) <= USABLE}
    assert odd == {}
    assert all(set(text.split(" OR ")) & USABLE for text in licences.scripts().values())
    assert licences.weights_licence() in USABLE


@pytest.mark.parametrize("language", licences.TEXTS)
def test_the_document_names_all_that_is_installed(language):
    """What is required is pinned; a package that one of those newly wants has to be looked at."""
    pytest.importorskip("xllamacpp")
    written = licences.document(language).read_text(encoding="utf-8").splitlines()
    assert [line for line in licences.page(language).splitlines() if line not in written] == [], "make licences"
