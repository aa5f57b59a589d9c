"""OpenTelemetry, for those who ask for it: OTEL_EXPORTER_OTLP_ENDPOINT is set and requirements-otel.txt installed.

Flask's and requests' official instrumentation make the spans; the SDK reads its other OTEL_… variables itself.
Nothing here is imported otherwise.
"""

from typing import Any

from ..settings import VERSION, SettingsError


def start(app: Any, endpoint: str) -> None:
    """Send `endpoint` a span for each request to `app` and to an upstream. Raises SettingsError."""
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.flask import FlaskInstrumentor
        from opentelemetry.instrumentation.requests import RequestsInstrumentor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as missing:
        raise SettingsError(
            [f"OTEL_EXPORTER_OTLP_ENDPOINT: {missing.name} is missing: pip install -r requirements-otel.txt"]
        ) from None
    resource = Resource.create({"service.name": "chatapi", "service.version": VERSION})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint + "/v1/traces")))
    trace.set_tracer_provider(provider)
    FlaskInstrumentor().instrument_app(app, excluded_urls="healthz,readyz,metrics")  # type: ignore[no-untyped-call]
    RequestsInstrumentor().instrument()
