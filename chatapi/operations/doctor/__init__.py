"""The doctor: what can go wrong in production is tried, and told with the line to change.

`machine` examines what the gateway stands on, `upstream` those it asks, and `front` the gateway itself from outside,
through whatever stands before it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from ...components import Components
from ...languages import _
from ...settings import find_misspelt
from .findings import Finding, Progress, settings_findings
from .front import DEFAULT_URL, Front
from .machine import Machine
from .upstream import Upstream

__all__ = ["DEFAULT_URL", "PARTS", "Finding", "check", "settings_findings"]

Check = Callable[[], Iterator[Finding]]
PARTS = {"models": ("upstream", "token", "models")}


def check(
    parts: Components,
    url: str | None = None,
    key: str | None = None,
    *,
    calls: bool = True,
    slow: bool = False,
    only: str | None = None,
    progress: Progress = lambda text: None,
) -> Iterator[Finding]:
    """Try everything; findings as they come. `url` is the public one, `key` a gateway key for it.

    `only` names one of PARTS, to try no more than that. Without `calls` no model is asked; only `slow` waits as long as
    the longest call. `progress` hears what is being tried.
    """
    machine, upstream, front = Machine(parts), Upstream(parts), Front(parts, url, key)
    checks: dict[str, Check] = {
        "settings": lambda: _check_settings(parts),
        "database": machine.check_database,
        "redis": machine.check_redis,
        "upstream": upstream.check_server,
        "token": upstream.check_token if calls else _skip_token,
        "models": lambda: upstream.check_models(progress) if calls else iter(()),
        "gunicorn": machine.check_gunicorn,
        "gateway": lambda: front.check(slow, progress, machine.database_works),
        "open files": lambda: machine.check_open_files(front.open_files),
    }
    secrets = [secret for secret in (parts.settings.huggingface_api_key, key) if secret]
    for name in PARTS[only] if only else checks:
        progress(name)
        for finding in _run(name, checks[name]):
            yield _redact(finding, secrets)


def _run(name: str, find: Check) -> Iterator[Finding]:
    """What a check finds; what keeps it from that is a finding too."""
    try:
        yield from find()
    except Exception as error:
        reason = getattr(error, "cause", None) or str(error) or "-"
        message = _("cannot be checked: {kind}: {error}", kind=type(error).__name__, error=reason)
        yield Finding(name, False, message, _("report this"))


def _redact(finding: Finding, secrets: list[str]) -> Finding:
    # An upstream may repeat what it was sent.
    message, fix = finding.message, finding.fix
    for secret in secrets:
        message, fix = message.replace(secret, "***"), fix.replace(secret, "***")
    return replace(finding, message=message, fix=fix)


def _check_settings(parts: Components) -> Iterator[Finding]:
    # They were read already, or nobody would have come here.
    for text in find_misspelt():
        yield Finding("settings", None, text, ".env, /etc/chatapi.env")
    models = len(parts.engine.catalogue.cards)
    message = _("can be used; CHATAPI_AUTH={auth}, {count} models", auth=parts.settings.auth, count=models)
    yield Finding("settings", True, message)


def _skip_token() -> Iterator[Finding]:
    yield Finding("token", None, _("neither it nor any model was tried (--no-calls)"), "flask --app wsgi doctor")
