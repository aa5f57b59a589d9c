"""The dialects, each whole in one file: JSON in → ChatJob; Reply, chunks and errors → JSON out."""

from .envelope import COMPLETIONS, LEGACY
from .loading import Dialect, EventWriter
from .openai import OPENAI
from .responses import RESPONSES

__all__ = ["COMPLETIONS", "LEGACY", "OPENAI", "RESPONSES", "Dialect", "EventWriter"]
