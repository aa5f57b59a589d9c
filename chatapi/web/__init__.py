"""HTTP in and out: the blueprints, what comes before their views (request) and after (response, stream, errors)."""

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from ..components import Components
from ..telemetry import tracing
from . import completions, errors, layout, legacy, openai, operations, pages, playground, probe, request, response


def create(parts: Components) -> Flask:
    """The Flask application over `parts`."""
    app = Flask("chatapi", static_folder=None)
    app.extensions["chatapi"] = parts
    if proxies := parts.settings.trusted_proxies:
        # Only so many entries of X-Forwarded-For count, from its end: the rest is what a caller may have made up.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=0)  # type: ignore[method-assign]
    request.init_app(app)
    response.init_app(app)
    errors.init_app(app)
    for module in (completions, layout, legacy, openai, operations, pages, playground, probe):
        app.register_blueprint(module.blueprint)
    if endpoint := parts.settings.otlp_endpoint:
        tracing.start(app, endpoint)
    return app
