"""S1's request, its three examples and its answer, to the letter, as docs/chat-completion-api.md has them."""

import re

from support.gateways import ROOT

_DOCUMENT = (ROOT / "docs/chat-completion-api.md").read_text(encoding="utf-8")
S1_FORMAT, S1_EXAMPLE_1, S1_EXAMPLE_2, S1_EXAMPLE_3, S1_ANSWER = re.findall(r"(?ms)^```json\n(.*?)\n```$", _DOCUMENT)
