"""An OpenTelemetry collector for tests: takes OTLP over HTTP in JSON, and reads it with the classes that opentelemetry-proto
generates from the protocol's definition. What it does not know is an error.

Argument: how many times it says that it is busy first. Prints the port that it listens on, then a line of JSON for each
span, or for what it refused.
"""

import base64
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

busy = int(sys.argv[1])


def say(value):
    print(json.dumps(value), flush=True)


def binary(span, key, digits):
    """OTLP writes ids in hexadecimal digits, where the JSON form of Protocol Buffers has Base64."""
    if key in span:
        assert re.fullmatch(f"[0-9a-f]{{{digits}}}", span[key]), span[key]
        span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()


def value(any_value):
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(message):
    pairs = [(pair.key, value(pair.value)) for pair in message.attributes]
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


def read(body):
    document = json.loads(body)
    for resource in document["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                binary(span, "traceId", 32)
                binary(span, "spanId", 16)
                binary(span, "parentSpanId", 16)
    request = json_format.ParseDict(document, ExportTraceServiceRequest())
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "service": attributes(resource.resource)["service.name"],
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": span.kind,
                    "nanoseconds": span.end_time_unix_nano - span.start_time_unix_nano,
                    "start": span.start_time_unix_nano,
                    "status": span.status.code,
                    "attributes": attributes(span),
                }


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        global busy
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = 200
        if busy > 0:
            busy, status = busy - 1, 503
        else:
            try:
                assert self.path == "/v1/traces", self.path
                assert self.headers["Content-Type"] == "application/json"
                for span in read(body):
                    say(span)
            except Exception as error:
                say({"refused": repr(error), "body": body.decode(errors="replace")})
                status = 400
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Collector)
say(server.server_port)
server.serve_forever()
