"""HTTP in and out: the routes, what happens before them (gate) and after (replies)."""

from flask import Flask

from ..wiring import Parts
from . import completions, gate, legacy, openai, ops, pages, replies


def create(parts: Parts) -> Flask:
    """The Flask application over `parts`."""
    app = Flask("chatapi", static_folder=None)
    app.extensions["chatapi"] = parts
    gate.init_app(app)
    replies.init_app(app)
    for module in (completions, legacy, openai, ops, pages):
        app.register_blueprint(module.blueprint)
    return app
