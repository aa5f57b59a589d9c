"""The doctor: what can go wrong in production is tried, and told with the line to change.

`machine` looks at what the gateway stands on, `upstream` at those it asks, and `front` at the gateway itself from
outside, through whatever stands before it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from ...components import Components
from ...languages import _
from ...settings import misspelt
from .findings import Finding, Progress, of_mistakes
from .front import DEFAULT_URL, Front
from .machine import Machine
from .upstream import Upstream

__all__ = ["DEFAULT_URL", "PARTS", "Finding", "check", "of_mistakes"]

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
    """Look at everything; findings as they come. `url` is the public one, `key` a gateway key for it.

    `only` names one of PARTS, to look at no more than that. Without `calls` no model is asked; only `slow` waits as
    long as the longest call. `progress` hears what is being tried.
    """
    machine, upstream, front = Machine(parts), Upstream(parts), Front(parts, url, key)
    checks: tuple[tuple[str, Check], ...] = (
        ("settings", lambda: _settings(parts)),
        ("database", machine.database),
        ("redis", machine.redis),
        ("upstream", upstream.reached),
        ("token", upstream.token if calls else _not_called),
        ("models", lambda: upstream.models(progress) if calls else iter(())),
        ("gunicorn", machine.gunicorn),
        ("gateway", lambda: front.findings(slow, progress, machine.database_works)),
        ("open files", lambda: machine.files(front.open_files)),
    )
    secrets = [secret for secret in (parts.settings.huggingface_api_key, key) if secret]
    for name, find in checks:
        if only and name not in PARTS[only]:
            continue
        progress(name)
        for finding in _found(name, find):
            yield _without(secrets, finding)


def _found(name: str, find: Check) -> Iterator[Finding]:
    """What a check finds; what keeps it from that is a finding too."""
    try:
        yield from find()
    except Exception as error:
        said = getattr(error, "cause", None) or str(error) or "-"
        message = _("cannot be checked: {kind}: {error}", kind=type(error).__name__, error=said)
        yield Finding(name, False, message, _("report this"))


def _without(secrets: list[str], finding: Finding) -> Finding:
    # An upstream may repeat what it was sent.
    for secret in secrets:
        finding = replace(
            finding, message=finding.message.replace(secret, "***"), fix=finding.fix.replace(secret, "***")
        )
    return finding


def _settings(parts: Components) -> Iterator[Finding]:
    # They were read already, or nobody would have come here.
    for text in misspelt():
        yield Finding("settings", None, text, ".env, /etc/chatapi.env")
    models = len(parts.engine.catalogue.cards)
    message = _("can be used; CHATAPI_AUTH={auth}, {count} models", auth=parts.settings.auth, count=models)
    yield Finding("settings", True, message)


def _not_called() -> Iterator[Finding]:
    yield Finding("token", None, _("neither it nor any model was tried (--no-calls)"), "flask --app wsgi doctor")
