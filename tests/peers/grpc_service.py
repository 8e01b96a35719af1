"""A gRPC service with grpcio, in the clear and over TLS, whose methods say by their names what they do.

Arguments: certificate and key files. Prints the two ports; ends with its standard input.
"""

import concurrent.futures
import sys
import threading

import grpc

certificate, key = (open(name, "rb").read() for name in sys.argv[1:])
ended = []
lock = threading.Lock()


def heard(context):
    """Sends back what was heard of the caller."""
    metadata = dict(context.invocation_metadata())
    told = [(f"seen-{name}", metadata[name]) for name in ("x-device-id", "question") if name in metadata]
    if "blob-bin" in metadata:
        told.append(("seen-blob-bin", metadata["blob-bin"]))
    remaining = context.time_remaining()
    told.append(("seen-deadline", "none" if remaining is None else str(remaining < 60)))
    context.send_initial_metadata((("greeting", "hello"),))
    context.set_trailing_metadata(told)


def unary(request, context):
    heard(context)
    return request


def collect(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def talk(requests, context):
    yield from requests


def fail(request, context):
    context.set_trailing_metadata((("reason", "because"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 100 % \u00e4")


def fail_late(request, context):
    yield b"one"
    context.abort(grpc.StatusCode.ABORTED, "changed my mind")


def fail_early(requests, context):
    next(requests)
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")


def wait(request, context):
    gone = noting_its_end(context)
    yield b"begun"
    gone.wait(30)


def wait_silently(request, context):
    noting_its_end(context).wait(30)
    return b""


def noting_its_end(context):
    gone = threading.Event()

    def note():
        with lock:
            ended.append(context)
        gone.set()

    context.add_callback(note)
    return gone


def how_many_ended(request, context):
    with lock:
        return str(len(ended)).encode()


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
    "FailEarly": grpc.stream_unary_rpc_method_handler(fail_early),
    "Wait": grpc.unary_stream_rpc_method_handler(wait),
    "WaitSilently": grpc.unary_unary_rpc_method_handler(wait_silently),
    "HowManyEnded": grpc.unary_unary_rpc_method_handler(how_many_ended),
}


class Service(grpc.GenericRpcHandler):
    """The same methods, whatever the service is called."""

    def service(self, details):
        return METHODS.get(details.method.rsplit("/", 1)[-1])


server = grpc.server(
    concurrent.futures.ThreadPoolExecutor(32),
    handlers=(Service(),),
    options=[("grpc.max_receive_message_length", -1)],
)
credentials = grpc.ssl_server_credentials([(key, certificate)])
ports = server.add_insecure_port("127.0.0.1:0"), server.add_secure_port("127.0.0.1:0", credentials)
server.start()
print(*ports, flush=True)
sys.stdin.read()
server.stop(None)
