"""Models from the Hub: which file is meant, its download, and what a person is told when there is none."""

import pytest
from support.tables import raised

from chatapi.embedded import EngineError
from chatapi.embedded.hub import choose
from chatapi.settings import HubModel

pytest.importorskip("huggingface_hub")


# ---------------------------------------------------------------- which file is meant

QWEN = [f"qwen2.5-0.5b-instruct-{kind}.gguf" for kind in ("fp16", "q4_0", "q4_k_m", "q8_0")] + ["README.md"]
PARTS = [f"q4_k_m/big-Q4_K_M-0000{n}-of-00003.gguf" for n in (1, 2, 3)]


CHOSEN = [
    *((choice, QWEN, [QWEN[2]]) for choice in ("", "Q4_K_M")),
    *(("q8_0", QWEN, [QWEN[3]]), ("FP16", QWEN, [QWEN[0]]), (QWEN[1], QWEN, [QWEN[1]])),
    ("Q4_K", ["a-Q4_K.gguf", "a-Q4_K_M.gguf"], ["a-Q4_K.gguf"]),
    *(("", ["a-IQ2_XS.gguf"], ["a-IQ2_XS.gguf"]), ("", ["a-F16.gguf", "a-Q8_0.gguf"], ["a-Q8_0.gguf"])),
    *(("Q4_K_M", PARTS, PARTS), ("", [*PARTS, "big-Q8_0.gguf"], PARTS)),
    ("big-Q4_K_M-00001-of-00003.gguf", PARTS, PARTS),
    ("", ["mmproj-a-Q4_K_M.gguf", "a-Q4_K_M.gguf", "a.imatrix.gguf"], ["a-Q4_K_M.gguf"]),
]
NONE_OR_SEVERAL = [
    *(("Q5_K_M", QWEN, "no Q5_K_M"), ("nope.gguf", QWEN, QWEN[3]), ("", ["model.safetensors"], "acme/x-GGUF")),
    ("Q4_0", ["a-Q4_0.gguf", "b-Q4_0.gguf"], "b-Q4_0.gguf"),
    *(("", ["a-IQ1.gguf", "a-IQ2.gguf"], "a-IQ2.gguf"), ("Q4_K_M", PARTS[:2], "no GGUF")),
]


@pytest.mark.parametrize("choice, names, chosen", CHOSEN)
def test_the_file_that_is_meant(choice, names, chosen):
    assert choose(HubModel("acme/x", choice), names) == chosen


@pytest.mark.parametrize("choice, names, said", NONE_OR_SEVERAL)
def test_a_choice_that_fits_no_file_or_several_is_told_with_those_there_are(choice, names, said):
    assert said in str(raised(EngineError, choose, HubModel("acme/x", choice), names))
