"""Models from the Hub: which file is meant, its download, and what a person is told when there is none."""

import pytest

from chatapi.embedded import EngineError
from chatapi.embedded.hub import choose
from chatapi.settings import HubModel

pytest.importorskip("huggingface_hub")


# ---------------------------------------------------------------- which file is meant

QWEN = [
    "qwen2.5-0.5b-instruct-fp16.gguf",
    "qwen2.5-0.5b-instruct-q4_0.gguf",
    "qwen2.5-0.5b-instruct-q4_k_m.gguf",
    "qwen2.5-0.5b-instruct-q8_0.gguf",
    "README.md",
]
PARTS = [f"q4_k_m/big-Q4_K_M-0000{n}-of-00003.gguf" for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "choice, names, chosen",
    [
        ("", QWEN, ["qwen2.5-0.5b-instruct-q4_k_m.gguf"]),
        ("Q4_K_M", QWEN, ["qwen2.5-0.5b-instruct-q4_k_m.gguf"]),
        ("q8_0", QWEN, ["qwen2.5-0.5b-instruct-q8_0.gguf"]),
        ("FP16", QWEN, ["qwen2.5-0.5b-instruct-fp16.gguf"]),
        ("qwen2.5-0.5b-instruct-q4_0.gguf", QWEN, ["qwen2.5-0.5b-instruct-q4_0.gguf"]),
        ("Q4_K", ["a-Q4_K.gguf", "a-Q4_K_M.gguf"], ["a-Q4_K.gguf"]),
        ("", ["a-IQ2_XS.gguf"], ["a-IQ2_XS.gguf"]),
        ("", ["a-F16.gguf", "a-Q8_0.gguf"], ["a-Q8_0.gguf"]),
        ("Q4_K_M", PARTS, PARTS),
        ("", [*PARTS, "big-Q8_0.gguf"], PARTS),
        ("big-Q4_K_M-00001-of-00003.gguf", PARTS, PARTS),
        ("", ["mmproj-a-Q4_K_M.gguf", "a-Q4_K_M.gguf", "a.imatrix.gguf"], ["a-Q4_K_M.gguf"]),
    ],
)
def test_the_file_that_is_meant(choice, names, chosen):
    assert choose(HubModel("acme/x", choice), names) == chosen


@pytest.mark.parametrize(
    "choice, names, said",
    [
        ("Q5_K_M", QWEN, "no Q5_K_M"),
        ("nope.gguf", QWEN, "qwen2.5-0.5b-instruct-q8_0.gguf"),
        ("", ["model.safetensors"], "acme/x-GGUF"),
        ("Q4_0", ["a-Q4_0.gguf", "b-Q4_0.gguf"], "b-Q4_0.gguf"),
        ("", ["a-IQ1.gguf", "a-IQ2.gguf"], "a-IQ2.gguf"),
        ("Q4_K_M", PARTS[:2], "no GGUF"),
    ],
)
def test_a_choice_that_fits_no_file_or_several_is_told_with_those_there_are(choice, names, said):
    with pytest.raises(EngineError, match=said):
        choose(HubModel("acme/x", choice), names)
