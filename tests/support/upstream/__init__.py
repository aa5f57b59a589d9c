"""A real HTTP server that plays Hugging Face: its three skins, its errors and its worst days.

    with Upstream() as up:
        requests.post(up.url + "/v1/chat/completions", json={"model": "test/cut", "stream": True, ...})
        assert up.calls_for("test/cut")[0].finished is False

What it does is chosen by the model id: the body's `model`, the id in the classic path, or a path prefix
`/at/{org}/{name}` which makes one server look like many endpoints of one's own. `BEHAVIOURS` holds the
built-in ids (`test/...`); `Upstream.behave` and `Upstream.sequence` add more. Everything is deterministic.
The texts are Hugging Face's own, as recorded; "HF" in a comment cites the wire-protocol reference.
"""

from support.upstream.answers import PIECES, TEXT, chat_object, chat_whole, chunk, play, say, script, stepwise, whole  # noqa: F401
from support.upstream.behaviours import BEHAVIOURS, CLASSIC_REPLIES, loading, rate, saying  # noqa: F401
from support.upstream.exchange import RST_ON_CLOSE, Exchange  # noqa: F401
from support.upstream.refusals import CHAT, CLASSIC, ERRORS, EVERY, GENERATE, OWN, fault, model_error, text_fault  # noqa: F401
from support.upstream.server import Upstream  # noqa: F401
from support.upstream.streams import BREAKS, U2028_TEXT, UTF8_TEXT  # noqa: F401
