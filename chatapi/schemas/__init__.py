"""The dialects, each one value: JSON in → ChatJob; Reply, chunks and errors → JSON out."""

from .dialect import Dialect, EventWriter
from .envelope import COMPLETIONS, LEGACY
from .openai import OPENAI
from .responses import RESPONSES

DIALECTS = (OPENAI, RESPONSES, COMPLETIONS, LEGACY)  # in the order of the reference

__all__ = ["COMPLETIONS", "DIALECTS", "LEGACY", "OPENAI", "RESPONSES", "Dialect", "EventWriter"]
