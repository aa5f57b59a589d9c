"""`flask --app wsgi doctor`: prints what the doctor finds."""

import sys
from dataclasses import asdict

import click
from flask import current_app
from flask.cli import with_appcontext

from ...languages import N_, _
from ...settings import SettingsError
from ..doctor import DEFAULT_URL, PARTS, Finding, check, settings_findings
from .commands import format_json
from .values import BASE_URL, SECRET


@click.command(
    "doctor",
    help=N_(
        "Try everything that production needs, and say what is wrong and the line to change. Status 1: something is."
        "\n\nWith `models`: which models of the catalogue answer, and what can take the place of those that do not."
    ),
)
@click.argument("part", type=click.Choice(list(PARTS)), required=False)
@click.option("--url", type=BASE_URL, show_default=DEFAULT_URL, help=N_("The public URL, through nginx."))
@click.option("--key", type=SECRET, help=N_("A gateway key, where the URL wants one."))
@click.option("--no-calls", is_flag=True, help=N_("Ask no model: nothing that costs tokens."))
@click.option("--slow", is_flag=True, help=N_("Wait as long as CHATAPI_MAX_TIME, to find timeouts that are too short."))
@click.option("--json", "as_json", is_flag=True, help=N_("Print JSON."))
@with_appcontext
def doctor(part: str | None, url: str | None, key: str | None, no_calls: bool, slow: bool, as_json: bool) -> None:
    parts = current_app.extensions["chatapi"]
    person = sys.stderr.isatty() and not as_json
    if isinstance(parts, SettingsError):
        findings = settings_findings(parts)
    else:
        progress = _show_progress if person else lambda text: None
        findings = check(parts, url, key, calls=not no_calls, slow=slow, only=part, progress=progress)
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            _print(finding, clear=person)
    if as_json:
        click.echo(format_json([asdict(finding) for finding in found]))
    sys.exit(any(finding.ok is False for finding in found))


def _print(finding: Finding, clear: bool) -> None:
    if clear:
        _show_progress("")
    sign = {True: _("ok"), False: _("WRONG"), None: "?"}[finding.ok]
    click.echo(f"{sign:<7}{finding.name}: {finding.message}")
    for line in finding.fix.splitlines():
        click.echo(f"       {line}")


def _show_progress(text: str) -> None:
    """What is being tried, on a line that the next one overwrites."""
    click.echo(f"\r\033[K{text}{' …' if text else ''}", nl=False, err=True)
