"""Traces: W3C Trace Context goes through; with OpenTelemetry asked for, spans arrive at a collector."""

import gzip
from contextlib import contextmanager

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.gateways import python, serve
from support.heard import records_of, wait_until
from support.sockets import Quiet, serving_http

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
ASK = {"model": "test/ok", "messages": [{"role": "user", "content": "hi"}]}
ROUTES = ("/api/huggingface-chat", "/api/chat/completions", "/v1/chat/completions")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_a_trace_goes_on_to_the_upstream_with_our_own_span(client, upstream, route, stream):
    headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
    body = {"message": "hi", "model": "test/ok"} if "huggingface" in route else ASK
    assert client.post(route, json={**body, "stream": stream}, headers=headers).get_data()
    sent = upstream.calls_for("test/ok")[-1].headers
    version, trace, span, flags = sent["traceparent"].split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert len(span) == 16 and span != SPAN
    assert sent["tracestate"] == "vendor=1"


@pytest.mark.parametrize(
    "given", ["", "garbage", PARENT.upper(), f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"{PARENT}-x"]
)
def test_what_is_no_trace_goes_nowhere(client, upstream, given):
    client.post(ROUTES[1], json=ASK, headers={"traceparent": given, "tracestate": "vendor=1"})
    assert not {"traceparent", "tracestate"} & {name.lower() for name in upstream.calls_for("test/ok")[-1].headers}


def test_the_line_of_the_call_names_the_trace(gateway, upstream):
    request_id = gateway.post(ROUTES[2], ASK, headers={"traceparent": PARENT}).headers["X-Request-Id"]
    upstream.wait_for(lambda: records_of(gateway, request_id))
    assert [record["trace_id"] for record in records_of(gateway, request_id)] == [TRACE]


# --- OpenTelemetry


@contextmanager
def collector():
    """What listens at OTEL_EXPORTER_OTLP_ENDPOINT: (its URL, the spans of a trace that have come)."""
    spans = []

    class Handler(Quiet):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving_http(Handler) as server:
        yield (
            f"http://127.0.0.1:{server.server_port}",
            lambda trace: [span for span in spans if span.trace_id.hex() == trace],
        )


def test_spans_of_call_and_upstream_arrive_in_one_trace(upstream, gateway_env):
    with collector() as (url, spans_of):
        env = {**gateway_env, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        with serve(env) as gateway:
            assert gateway.post(ROUTES[2], ASK, headers={"traceparent": PARENT}).ok
            assert gateway.post(ROUTES[2], {**ASK, "stream": True}, headers={"traceparent": PARENT}).ok
            assert wait_until(lambda: len(spans_of(TRACE)) >= 4, 15)
            calls = upstream.calls_for("test/ok")
            assert gateway.post(ROUTES[2], {**ASK, "model": "test/http500", "max_time": 1}).status_code == 502
    ours = {span.span_id.hex(): span for span in spans_of(TRACE)}
    asked = [call.headers["traceparent"].split("-")[2] for call in calls]
    assert asked and all(span in ours for span in asked), "the upstream's parent is the span of our request to it"
    for span in asked:
        assert ours[span].parent_span_id.hex() in ours, "which is a child of the span of the call"
        assert ours[ours[span].parent_span_id.hex()].parent_span_id.hex() == SPAN


def test_off_it_costs_nothing(settings):
    script = "import sys; from chatapi import create_app; create_app(); print('opentelemetry' in sys.modules)"
    assert python(script, PATH="").stdout.split() == ["False"]
