"""A service of server-sent events with Python's own HTTP server: each line of its standard input is an event of every stream
that is open.

Prints its port, and `gone NAME` for each stream that the other side has ended; ends with its standard input.
"""

import http.server
import queue
import socket
import sys
import threading

streams = set()
lock = threading.Lock()


class Events(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.headers["X-Device-Id"]
        lines = queue.Queue()
        lines.put(f"hello {name}")
        with lock:
            streams.add(lines)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        try:
            while not self.has_ended():
                try:
                    self.send_event(lines.get(timeout=0.05))
                except queue.Empty:
                    pass
        except OSError:
            pass
        with lock:
            streams.discard(lines)
        print("gone", name, flush=True)

    def send_event(self, line):
        event = f"data: {line}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))

    def has_ended(self):
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Events)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
for line in sys.stdin:
    with lock:
        for lines in streams:
            lines.put(line.strip())
