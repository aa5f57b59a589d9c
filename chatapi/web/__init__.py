"""HTTP in and out: the routes, what happens before them (gate) and after (replies)."""

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from ..components import Parts
from ..telemetry import tracing
from . import completions, gate, layout, legacy, openai, ops, pages, playground, probe, replies


def create(parts: Parts) -> Flask:
    """The Flask application over `parts`."""
    app = Flask("chatapi", static_folder=None)
    app.extensions["chatapi"] = parts
    if proxies := parts.settings.trusted_proxies:
        # Only so many entries of X-Forwarded-For count, from its end: the rest is what a caller may have made up.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=0)  # type: ignore[method-assign]
    gate.init_app(app)
    replies.init_app(app)
    for module in (completions, layout, legacy, openai, ops, pages, playground, probe):
        app.register_blueprint(module.blueprint)
    if endpoint := parts.settings.otlp_endpoint:
        tracing.start(app, endpoint)
    return app
