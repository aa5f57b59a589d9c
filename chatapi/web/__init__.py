"""HTTP in and out: the blueprints, what comes before their views (request) and after (response, stream, errors)."""

from functools import cache

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from ..components import Components
from ..telemetry import tracing
from . import (
    completions,
    dashboard,
    docs,
    errors,
    layout,
    legacy,
    migrate,
    openai,
    openapi,
    operations,
    playground,
    probe,
    request,
    response,
    responses,
)

BLUEPRINTS = (
    *(completions, dashboard, docs, layout, legacy, migrate),
    *(openai, openapi, operations, playground, probe, responses),
)


def create(parts: Components) -> Flask:
    """The Flask application over `parts`."""
    app = request.Gateway("chatapi", static_folder=None)
    # Flask looks whether they are coroutines, at each view and each function around it, at each call.
    app.ensure_sync = cache(app.ensure_sync)  # type: ignore[method-assign]
    app.extensions["chatapi"] = parts
    if proxies := parts.settings.trusted_proxies:
        # Only so many entries of X-Forwarded-For count, from its end: the rest is what a caller may have made up.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=0)  # type: ignore[method-assign]
    request.init_app(app, parts)
    response.init_app(app, parts.settings.cors_origins)
    errors.init_app(app)
    for module in BLUEPRINTS:
        app.register_blueprint(module.blueprint)
    if endpoint := parts.settings.otlp_endpoint:
        tracing.start(app, endpoint)
    return app
