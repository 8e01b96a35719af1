"""Keybound and its peers, each configured for the same job at its best: end mutual TLS, tell the upstream who calls,
keep connections to the upstream, write no access log."""

import json
import shutil
import time

from processes import GATEWAY_CORE, Failed, Process, accepts, free_port, open_files, wait_for

HOST = "localhost"
# Clients need no certificate under this name of Keybound's.
OPEN_HOST = "open.localhost"


class Gateway:
    """A running gateway: its process and its port."""

    def __init__(self, process, port, name):
        self.process = process
        self.port = port
        self.name = name
        wait_for(f"{name} listens", lambda: process.ended() or accepts(port))
        if process.ended():
            raise Failed(f"{name} did not start: {process.tail()}")

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def stop(self):
        self.process.stop()


def copy(data, to):
    """A data directory as a server left it."""
    shutil.copytree(data, to, ignore=shutil.ignore_patterns("*.sock", "lock", "addresses.json"))


class Gateways:
    """Starts gateways in front of one upstream, with the certificates of one Keybound."""

    def __init__(self, folder, binaries, envoy, upstream):
        self.folder = folder
        self.binaries = binaries
        self.envoy_program = envoy
        self.upstream = upstream
        self.count = 0

    def place(self, name):
        self.count += 1
        place = self.folder / f"{self.count:03}-{name}"
        place.mkdir()
        return place

    def keybound(self, data, *, identity=("device-id",), workers=1, cores=None, keep=False):
        """On a copy of a data directory, so that what it learns is forgotten with it; `keep` works on the directory itself."""
        place = self.place("keybound")
        port = free_port()
        own = data if keep else place / "data"
        if not keep:
            copy(data, own)
        identities = ", ".join(f'"{form}"' for form in identity)
        configuration = place / "keybound.toml"
        configuration.write_text(
            f"""data = "{own}"
names = ["{HOST}", "{OPEN_HOST}"]
[ca]
[gateway]
listen = ["127.0.0.1:{port}"]
workers = {workers}
rate = "unlimited"
[[gateway.route]]
upstream = "http://{self.upstream}"
identity = [{identities}]
[[gateway.route]]
host = "{OPEN_HOST}"
upstream = "http://{self.upstream}"
client = "anonymous"
"""
        )
        command = [self.binaries / "keybound", "serve", "--config", configuration]
        process = Process(command, place / "log", cores or GATEWAY_CORE)
        return Gateway(process, port, "Keybound")

    def nginx(self, *, tickets=False, certificate=False, transfer=None):
        """`transfer`: how bodies pass; unbuffered, or through buffers that never become files."""
        place = self.place("nginx")
        port = free_port()
        streaming = {
            None: "",
            "unbuffered": "proxy_buffering off; proxy_request_buffering off; proxy_buffer_size 64k; proxy_buffers 4 64k;",
            "buffered": "proxy_request_buffering off; proxy_buffer_size 64k; proxy_buffers 16 64k;"
            " proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;",
        }[transfer]
        resumption = (
            "ssl_session_tickets on; ssl_session_timeout 1h;"
            if tickets
            else "ssl_session_tickets off; ssl_session_cache off;"
        )
        more = "proxy_set_header Client-Cert $ssl_client_escaped_cert;" if certificate else ""
        (place / "nginx.conf").write_text(
            f"""worker_processes 1;
worker_rlimit_nofile 65536;
pid {place}/pid;
daemon off;
events {{ worker_connections 32768; }}
http {{
  access_log off;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  tcp_nodelay on;
  upstream service {{ server {self.upstream}; keepalive 1024; keepalive_requests 1000000000; keepalive_timeout 1h; }}
  server {{
    listen 127.0.0.1:{port} ssl http2 backlog=4096;
    server_name {HOST};
    ssl_protocols TLSv1.3;
    ssl_ecdh_curve X25519;
    ssl_certificate {self.folder}/server-chain.pem;
    ssl_certificate_key {self.folder}/server.key;
    ssl_client_certificate {self.folder}/anchors.pem;
    ssl_verify_client on;
    ssl_verify_depth 2;
    {resumption}
    location / {{
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Device-Id $ssl_client_s_dn;
      {more}
      {streaming}
    }}
  }}
}}
"""
        )
        command = ["nginx", "-c", place / "nginx.conf", "-p", place, "-e", place / "error.log"]
        return Gateway(Process(command, place / "log", GATEWAY_CORE), port, "nginx")

    def haproxy(self, *, certificate=False):
        place = self.place("haproxy")
        port = free_port()
        more = "http-request set-header Client-Cert :%[ssl_c_der,base64]:" if certificate else ""
        (place / "haproxy.cfg").write_text(
            f"""global
  nbthread 1
  maxconn {(open_files() - 200) // 2}
  tune.ssl.cachesize 0
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
  http-reuse always
frontend devices
  bind 127.0.0.1:{port} backlog 4096 ssl crt {self.folder}/server-all.pem ca-file {self.folder}/anchors.pem verify required curves X25519 alpn h2,http/1.1
  http-request set-header X-Device-Id %[ssl_c_s_dn(cn)]
  {more}
  default_backend service
backend service
  server service {self.upstream}
"""
        )
        command = ["haproxy", "-db", "-f", place / "haproxy.cfg"]
        return Gateway(Process(command, place / "log", GATEWAY_CORE), port, "HAProxy")

    def envoy(self, *, tickets=False, certificate=False, group="X25519"):
        place = self.place("envoy")
        port = free_port()
        kind = "type.googleapis.com/envoy.extensions"
        host, upstream_port = self.upstream.split(":")
        tls = {
            "@type": f"{kind}.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "disable_stateless_session_resumption": not tickets,
            "disable_stateful_session_resumption": True,
            "common_tls_context": {
                "tls_params": {
                    "tls_minimum_protocol_version": "TLSv1_3",
                    "tls_maximum_protocol_version": "TLSv1_3",
                    "ecdh_curves": [group],
                },
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": f"{self.folder}/server-chain.pem"},
                        "private_key": {"filename": f"{self.folder}/server.key"},
                    }
                ],
                "validation_context": {"trusted_ca": {"filename": f"{self.folder}/anchors.pem"}},
            },
        }
        manager = {
            "@type": f"{kind}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "devices",
            "generate_request_id": False,
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"subject": True, "cert": certificate},
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [
                            {"match": {"prefix": "/"}, "route": {"cluster": "service", "timeout": "0s"}}
                        ],
                    }
                ]
            },
            "http_filters": [
                {"name": "router", "typed_config": {"@type": f"{kind}.filters.http.router.v3.Router"}}
            ],
        }
        most = {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}
        configuration = {
            "static_resources": {
                "listeners": [
                    {
                        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                        "tcp_backlog_size": 4096,
                        "filter_chains": [
                            {
                                "transport_socket": {"name": "tls", "typed_config": tls},
                                "filters": [{"name": "http", "typed_config": manager}],
                            }
                        ],
                    }
                ],
                "clusters": [
                    {
                        "name": "service",
                        "circuit_breakers": {"thresholds": [most]},
                        "load_assignment": {
                            "cluster_name": "service",
                            "endpoints": [
                                {
                                    "lb_endpoints": [
                                        {
                                            "endpoint": {
                                                "address": {
                                                    "socket_address": {
                                                        "address": host,
                                                        "port_value": int(upstream_port),
                                                    }
                                                }
                                            }
                                        }
                                    ]
                                }
                            ],
                        },
                    }
                ],
            }
        }
        (place / "envoy.json").write_text(json.dumps(configuration, indent=1))
        command = [self.envoy_program, "-c", place / "envoy.json", "--concurrency", 1]
        command += ["--disable-hot-restart", "--log-level", "error"]
        gateway = Gateway(Process(command, place / "log", GATEWAY_CORE), port, "Envoy")
        time.sleep(0.5)
        return gateway
