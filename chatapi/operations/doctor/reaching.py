"""Why a server is not reached, or does not speak Hugging Face's protocol: what is seen, what it means, what to do."""

import json
import re
from urllib.parse import urlsplit

from ...call import Call
from ...chat import Json
from ...errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable, causes
from ...huggingface import Transport
from ...huggingface.transport import Answer, Request
from ...languages import N_, _

ASK_S = 5.0
CA = "REQUESTS_CA_BUNDLE=/etc/ssl/certs/your-authority.pem"

# Words in what the library says of a TLS handshake → what it means; the first row counts.
_HANDSHAKES = (
    (r"hostname mismatch|doesn't match|not valid for", N_("its TLS certificate is of another name"), ""),
    (r"certificate has expired", N_("its TLS certificate has expired: renew it there"), ""),
    (
        r"self.signed|unable to get (local )?issuer|certificate.verify.failed",
        N_("its TLS certificate is signed by an authority that this machine does not know: name it"),
        CA,
    ),
    (
        r"wrong.version.number|record.layer|unknown.protocol|http.request",
        N_("it speaks plain http at this port"),
        "http",
    ),
)

# What of the connection failed → the same of any server.
_FAILED = {
    "name": N_("its host name cannot be resolved"),
    "proxy": N_("the proxy on the way there (HTTPS_PROXY) fails"),
    "handshake": N_("the TLS handshake fails"),
    "connection": N_("nobody accepts the connection"),
    "no connection in time": N_("nobody accepts the connection in time"),
    "answer cut": N_("the answer is cut"),
    "closed": N_("the connection is closed without an answer"),
    "answer": N_("the answer cannot be read"),
}


def fetch(transport: Transport, request: Request, seconds: float = ASK_S) -> Answer:
    """A whole answer. Raises UpstreamError."""
    call = Call("-", seconds=seconds)
    return transport.fetch(request, call, call.deadline)


def describe(error: UpstreamError) -> str:
    """What was seen of a server that may be the gateway itself, in a few words."""
    if isinstance(error, UpstreamTimeout):
        return _("no answer comes in time")
    if isinstance(error, UpstreamUnavailable) and error.failed:
        return _(_FAILED[error.failed])
    return error.message


def explain(url: str, error: UpstreamError, transport: Transport) -> tuple[str, str]:
    """What is wrong with the connection to `url`; and, where more than `error` is known, the URL or line to use."""
    words = _cause_words(error)
    for pattern, meaning, instead in _HANDSHAKES if url.startswith("https:") else ():
        if re.search(pattern, words, re.IGNORECASE):
            return _(meaning), f"http{url.removeprefix('https')}" if instead == "http" else instead
    if url.startswith("http:") and _speaks_tls(url, transport):
        return _("it speaks TLS at this port"), f"https{url.removeprefix('http')}"
    return describe(error), ""


def fix_address(instead: str, line: str, otherwise: str) -> str:
    """The fix for what `explain` found: a URL within `line`, a line of the environment, or `otherwise`."""
    if "://" in instead:
        return line.format(instead)
    return f"export {instead}" if instead else otherwise


def _speaks_tls(url: str, transport: Transport) -> bool:
    try:
        fetch(transport, Request(f"https{url.removeprefix('http')}/"))
    except UpstreamError as error:
        return "certificate" in _cause_words(error).lower()
    return True


def _cause_words(error: UpstreamError) -> str:
    """What the libraries say of it, in English; our own message is the reader's."""
    return " ".join(map(str, causes(error)[1:]))


def check_protocol(url: str, answer: Answer, transport: Transport) -> tuple[str, str] | None:
    """None where the server at `url` that gave `answer` for its list of models speaks the protocol, or as `explain`."""
    if _lists_models(answer) or answer.status in (401, 403, 429):
        return None
    if 300 <= answer.status < 400:
        to = answer.headers.get("Location", "").partition("/v1/models")[0]
        return _("it sends callers on to {to}", to=to or "?"), to if urlsplit(to).hostname else ""
    if url.startswith("http:") and answer.status == 400 and b"https" in answer.body.lower():
        return _("it speaks TLS at this port"), f"https{url.removeprefix('http')}"
    if _takes_calls(url, transport):
        return None
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    if origin != url and _serves(origin, transport):
        return _("nothing is at this path, but at {origin} a server of models answers", origin=origin), origin
    text = N_("it answers {status} in place of a list of models: it is a website, or the path is another one")
    return _(text, status=answer.status), ""


def _lists_models(answer: Answer) -> bool:
    return answer.status == 200 and isinstance((parse_object(answer) or {}).get("data"), list)


def _takes_calls(url: str, transport: Transport) -> bool:
    """Whether a call without content is refused for that: it costs nothing. Or it is a TGI, which tells its model."""
    try:
        refusal = fetch(transport, Request(f"{url}/v1/chat/completions", {}))
        if refusal.status in (400, 401, 403, 415, 422, 429) and parse_object(refusal) is not None:
            return True
        return "model_id" in (parse_object(fetch(transport, Request(f"{url}/info"))) or {})
    except UpstreamError:
        return False


def _serves(url: str, transport: Transport) -> bool:
    try:
        return _lists_models(fetch(transport, Request(f"{url}/v1/models"))) or _takes_calls(url, transport)
    except UpstreamError:
        return False


def parse_object(answer: Answer) -> Json | None:
    """The JSON object that an answer is, if it is one."""
    try:
        found = json.loads(answer.body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
