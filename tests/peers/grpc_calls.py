"""Calls a gRPC service through the gateway with grpcio, as a device.

Arguments: the gateway's port; files with the root, the device's certificate and its key; then what to do:
    all SERVICE        everything that a service can do; fails at the first thing that does not hold
    ask SERVICE        one call; prints its status and details
    send SERVICE N     one call with a message of N bytes; the same
    hold SERVICE       begins a call, prints "begun", waits for its end and prints its status and details
    ended SERVICE N    waits until the service has heard of the end of N calls
"""

import sys
import threading
import time

import grpc

port, root, certificate, key, what, service, *more = sys.argv[1:]
root, certificate, key = (open(name, "rb").read() for name in (root, certificate, key))
channel = grpc.secure_channel(
    f"localhost:{port}",
    grpc.ssl_channel_credentials(root, key, certificate),
    options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
)
unary = lambda method: channel.unary_unary(f"/{service}/{method}")
sending = lambda method: channel.stream_unary(f"/{service}/{method}")
receiving = lambda method: channel.unary_stream(f"/{service}/{method}")
talking = lambda method: channel.stream_stream(f"/{service}/{method}")


def failure(call):
    """How it fails: status, details, and the call."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it did not fail")


def check(value, expected):
    assert value == expected, f"{value!r} is not {expected!r}"


def ended(number):
    until = time.monotonic() + 5
    while int(unary("HowManyEnded")(b"")) < number:
        assert time.monotonic() < until, "the service does not hear that a call has ended"
        time.sleep(0.02)


def call_everything():
    answer, call = unary("Unary").with_call(
        b"hello",
        timeout=20,
        metadata=[("question", "why"), ("blob-bin", b"\x00\xff"), ("x-device-id", "forged")],
    )
    check(answer, b"hello")
    check(dict(call.initial_metadata())["greeting"], "hello")
    told = dict(call.trailing_metadata())
    check(told["seen-x-device-id"], "thermostat-7")
    check(told["seen-question"], "why")
    check(told["seen-blob-bin"], b"\x00\xff")
    check(told["seen-deadline"], "True")
    check(unary("Unary")(b""), b"")
    large = bytes(range(256)) * (20 << 12)
    check(unary("Unary")(large) == large, True)

    check(sending("Collect")(iter([b"x" * 1000] * 1000)), b"1000000")
    check(sending("Collect")(iter([])), b"0")
    check(list(receiving("Count")(b"1000")), [str(number).encode() for number in range(1000)])
    check(list(receiving("Count")(b"0")), [])

    # One message at a time: each is answered before the next is sent.
    turn = threading.Semaphore(1)

    def messages():
        for number in range(100):
            turn.acquire()
            yield str(number).encode()

    for number, answer in enumerate(talking("Talk")(messages())):
        check(answer, str(number).encode())
        turn.release()

    error = failure(lambda: unary("Fail")(b""))
    check((error.code(), error.details()), (grpc.StatusCode.NOT_FOUND, "no such thing: 100 % \u00e4"))
    check(dict(error.trailing_metadata())["reason"], "because")
    error = failure(lambda: unary("NoSuchMethod")(b""))
    check(error.code(), grpc.StatusCode.UNIMPLEMENTED)
    error = failure(lambda: list(receiving("FailLate")(b"")))
    check((error.code(), error.details()), (grpc.StatusCode.ABORTED, "changed my mind"))

    def endless():
        while True:
            yield b"x" * 1000
            time.sleep(0.01)

    error = failure(lambda: sending("FailEarly")(endless()))
    check((error.code(), error.details()), (grpc.StatusCode.RESOURCE_EXHAUSTED, "enough"))

    before = int(unary("HowManyEnded")(b""))
    call = receiving("Wait")(b"")
    check(next(call), b"begun")
    call.cancel()
    ended(before + 1)
    call = unary("WaitSilently").future(b"")
    time.sleep(0.1)
    call.cancel()
    ended(before + 2)
    error = failure(lambda: unary("WaitSilently")(b"", timeout=0.3))
    check(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    ended(before + 3)

    calls = [unary("Unary").future(str(number).encode()) for number in range(100)]
    check([call.result() for call in calls], [str(number).encode() for number in range(100)])
    print("ok")


def say(error):
    print(f"{error.code().name} {error.details()}", flush=True)


if what == "all":
    call_everything()
elif what == "ended":
    ended(int(more[0]))
    print("ok")
elif what == "hold":
    call = receiving("Wait")(b"")
    next(call)
    print("begun", flush=True)
    say(failure(lambda: list(call)))
else:
    say(failure(lambda: unary("Unary")(b"x" * int(more[0] if more else 0))))
