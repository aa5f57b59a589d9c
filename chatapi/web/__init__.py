"""HTTP in and out: the blueprints, what comes before their views (request) and after (response, stream, errors)."""

from typing import Any

from flask import Flask, Request
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import MapAdapter

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


class Gateway(Flask):
    """The WSGI application."""

    _adapter: MapAdapter | None = None

    def ensure_sync(self, func: Any) -> Any:
        """Nothing here is a coroutine: Flask need not look at each view and each function around it, at each call."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """One adapter for all requests, but for path and method: no route depends on host or scheme."""
        if request is None:
            return None
        if self._adapter is None:
            self._adapter = self.url_map.bind("localhost")
        adapter = MapAdapter.__new__(MapAdapter)  # as copy.copy does, which takes ten times as long
        path = request.environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        adapter.__dict__ = {**self._adapter.__dict__, "path_info": path, "default_method": request.method}
        return adapter


def create(parts: Components) -> Flask:
    """The Flask application over `parts`."""
    app = Gateway("chatapi", static_folder=None)
    app.extensions["chatapi"] = parts
    if proxies := parts.settings.trusted_proxies:
        # Only so many entries of X-Forwarded-For count, from its end: the rest is what a caller may have made up.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=0)  # type: ignore[method-assign]
    request.init_app(app)
    response.init_app(app)
    errors.init_app(app)
    for module in BLUEPRINTS:
        app.register_blueprint(module.blueprint)
    if endpoint := parts.settings.otlp_endpoint:
        tracing.start(app, endpoint)
    return app
