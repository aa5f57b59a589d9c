"""A finding, and the lines of settings that mend one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ...languages import N_, _
from ...settings import FIELDS, VERSION, SettingsError

Progress = Callable[[str], None]
Result = tuple[bool | None, str, str]  # what a check found: a Finding but for its name
AGENT = f"chatapi-doctor/{VERSION}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing examined. `ok` is None where it could not be told; `fix` is the line to change, or to run."""

    name: str
    ok: bool | None
    message: str
    fix: str = ""


def setting(name: str, value: object = "…") -> str:
    """The line of a setting."""
    return f".env: {name}={value}"


TOKEN = setting("HUGGINGFACE_API_KEY", "hf_…")
CREDIT = N_("add credit at https://huggingface.co/settings/billing")
DOCTOR = "flask --app wsgi doctor"


def settings_findings(error: SettingsError) -> Iterator[Finding]:
    """A finding for each setting, or entry of the catalogue, that cannot be used."""
    for mistake in error.mistakes:
        name = mistake.partition("=")[0]
        where, found, entry = mistake.partition("models.'")
        if name in FIELDS:
            yield Finding("settings", False, mistake, setting(name))
        elif found:
            file = where.partition(":")[0] or "catalogue"
            yield Finding("catalogue", False, mistake, f'{file}: [models."{entry.partition(chr(39))[0]}"]')
        else:
            yield Finding("settings", False, mistake, _("correct the file it names"))
