"""The rows of the bench. Each starts its gateways, lets them take turns, and says what came of it."""

import json
import os
import statistics
import time

import processes
from gateways import OPEN_HOST, copy
from measuring import Limit, Load, Outcome, better, ratios
from processes import CORES, LOAD_CORE, Failed, Process

# What a gateway is asked for


def handshake(bench):
    """Full handshake and first request, every device seen before."""
    gateways = {
        "Keybound": bench.keybound(),
        "Envoy": bench.start(bench.gateways.envoy()),
        "nginx": bench.start(bench.gateways.nginx()),
        "HAProxy": bench.start(bench.gateways.haproxy()),
    }
    bench.see_all(gateways["Keybound"])
    load = Load("handshakes")
    contestants = {name: bench.turns(gateway, load) for name, gateway in gateways.items()}
    resuming = Load("handshakes", ("--resume", "--devices", 256, "--warm", 512))
    for name, start in (("Envoy", bench.gateways.envoy), ("nginx", bench.gateways.nginx)):
        gateway = bench.start(start(tickets=True))
        contestants[f"{name}, resumed"] = lambda gateway=gateway: resumed(bench.run(gateway, resuming))
    figures = bench.alternate(contestants)
    return Outcome(
        "µs per handshake and request",
        figures,
        [
            Limit("× Envoy", ratios(figures, "Keybound", "Envoy"), 0.48, 0.38),
            Limit("× nginx", ratios(figures, "Keybound", "nginx"), 0.25),
            Limit("× Envoy, resumed", ratios(figures, "Keybound", "Envoy, resumed"), 1.0),
        ],
    )


def resumed(report):
    if report["resumed"] < 0.99 * report["operations"]:
        raise Failed(f"only {report['resumed']} of {report['operations']} handshakes were resumed")
    return report


def first(bench):
    """The same, every certificate for the first time."""
    # Keybound's registry is told of each first use, a moment later.
    load = Load("handshakes", ("--once", "--seconds", 600), settles=2)

    def fresh(start):
        gateway = start()
        try:
            return bench.run(gateway, load)
        finally:
            gateway.stop()

    # A gateway anew each time: it has seen nobody.
    figures = bench.alternate(
        {
            "Keybound": lambda: fresh(lambda: bench.gateways.keybound(bench.data)),
            "Envoy": lambda: fresh(bench.gateways.envoy),
        }
    )
    limit = Limit("× Envoy", ratios(figures, "Keybound", "Envoy"), 0.62, 0.50)
    return Outcome("µs per handshake and request", figures, [limit])


def get(bench):
    """GET of 1 KB on kept connections; the upstream is told the device's id."""
    return kept(bench, certificate=False)


def client_cert(bench):
    """The same, and the upstream is told the certificate."""
    return kept(bench, certificate=True)


def kept(bench, *, certificate):
    identity = ("device-id", "client-cert") if certificate else ("device-id",)
    peers = bench.gateways
    gateways = {
        "Keybound": bench.keybound(identity=identity),
        "nginx": bench.start(peers.nginx(certificate=certificate)),
        "HAProxy": bench.start(peers.haproxy(certificate=certificate)),
        "Envoy": bench.start(peers.envoy(certificate=certificate)),
    }
    if certificate:
        for name, gateway in gateways.items():
            told = bench.probe(gateway)["told"]
            # Envoy has it in its own header.
            if "client-cert" not in told and "Cert=" not in told.get("x-forwarded-client-cert", ""):
                raise Failed(f"{name} does not tell the certificate: {told}")
    figures = bench.compare(gateways, Load("requests"))
    best = better(figures, "nginx", "HAProxy")
    return Outcome(
        "µs per request",
        figures,
        [
            Limit(f"× {best}", ratios(figures, "Keybound", best), 0.85, 0.65),
            Limit("× Envoy", ratios(figures, "Keybound", "Envoy"), 0.30),
        ],
    )


def streams(bench):
    """GET of 1 KB over HTTP/2, 32 streams on a connection."""
    gateways = {
        "Keybound": bench.keybound(),
        "Envoy": bench.start(bench.gateways.envoy()),
        "nginx": bench.start(bench.gateways.nginx()),
        "HAProxy": bench.start(bench.gateways.haproxy()),
    }
    figures = bench.compare(gateways, Load("streams"))
    limit = Limit("× Envoy", ratios(figures, "Keybound", "Envoy"), 0.60, 0.45)
    return Outcome("µs per request", figures, [limit])


def download(bench):
    """Answers of 10 MB."""
    return transfer(bench, "downloads")


def upload(bench):
    """Requests of 10 MB."""
    return transfer(bench, "uploads")


def transfer(bench, command):
    gateways = {
        "Keybound": bench.keybound(),
        "nginx": bench.start(bench.gateways.nginx(transfer="unbuffered")),
        "nginx, buffered": bench.start(bench.gateways.nginx(transfer="buffered")),
        "Envoy": bench.start(bench.gateways.envoy()),
    }
    figures = bench.compare(gateways, Load(command, per="bytes", times=1e6))
    best = better(figures, "nginx", "nginx, buffered")
    limit = Limit(f"× {best}", ratios(figures, "Keybound", best), 1.1, 0.9)
    return Outcome("µs per MB", figures, [limit])


def idle_http1(bench):
    """Memory of an idle HTTP/1.1 connection after one request, 10,000 held."""
    peers = {"nginx": bench.gateways.nginx, "HAProxy": bench.gateways.haproxy, "Envoy": bench.gateways.envoy}
    return idle(bench, peers, (), 12, 8)


def idle_http2(bench):
    """Memory of an idle HTTP/2 connection after one request, 10,000 held."""
    return idle(bench, {"Envoy": bench.gateways.envoy}, ("--http2",), 24, 16)


def idle(bench, peers, options, must, aim):
    # A gateway needs a second descriptor for each, and some more.
    connections = min(bench.devices, (processes.open_files() - 3000) // 2)

    def held(start):
        gateway = bench.start(start())
        # What the first connections of all need is there.
        bench.run(gateway, Load("handshakes", ("--warm", 300, "--devices", 300, "--seconds", 0.1)))
        time.sleep(2)
        before = gateway.process.pss_kib()
        generator = bench.generate(gateway, "idle", ("--connections", connections, *options))
        try:
            opened = json.loads(generator.line(within=300))
            if opened["errors"] or generator.line() != "held":
                raise Failed(f"{gateway.name}: {opened['errors']} errors: {opened['first_error']}")
            time.sleep(5)
            grown = gateway.process.pss_kib() - before
            generator.say()
            used = json.loads(generator.line(within=300))
            if used["errors"]:
                raise Failed(f"{gateway.name}, afterwards: {used['errors']} errors: {used['first_error']}")
        finally:
            generator.stop()
            gateway.stop()
        return {"kib": grown / opened["operations"]}

    contestants = {"Keybound": lambda: held(lambda: bench.gateways.keybound(bench.data))}
    for name, start in peers.items():
        contestants[name] = lambda start=start: held(start)
    figures = bench.alternate(contestants, rounds=min(bench.rounds, 3), key="kib")
    limit = Limit("KiB", figures["Keybound"], must, aim)
    return Outcome("KiB per connection", figures, [limit], [f"{connections:,} were held"])


def revoked(bench):
    """Handshakes beside a million revoked certificates."""
    issued, withdrawn = bench.fleet
    data = bench.folder / "fleet"
    if not data.exists():
        copy(bench.data, data)
        made = processes.succeed(
            [bench.generator, "fleet", data, "--devices", issued, "--revoked", withdrawn],
            preexec_fn=lambda: os.sched_setaffinity(0, CORES),
        )
        made = processes.last_json(made)
        print(
            f"  {issued:,} issued in {made['issuing_seconds']:.0f} s, "
            f"{withdrawn:,} revoked in {made['revoking_seconds']:.0f} s",
            flush=True,
        )
    large, small = f"{withdrawn:,} revoked", "none revoked"
    gateways = {large: bench.keybound(data, keep=True), small: bench.keybound()}
    if issued > FOLLOWED_AFTERWARDS:
        processes.wait_for("the journal was followed", lambda: followed(gateways[large]), within=900)
    bench.see_all(*gateways.values())
    figures = bench.compare(gateways, Load("handshakes"))
    limit = Limit("× none revoked", ratios(figures, large, small), 1.03, 1.00)
    return Outcome("µs per handshake and request", figures, [limit])


# A journal of more entries is followed while devices are served already.
FOLLOWED_AFTERWARDS = 50_000


def followed(gateway):
    """Whether Keybound has ended the check of a large journal, as its log says."""
    return "the journal is as it was written" in gateway.process.log.read_text()


def overload(bench):
    """Established connections while twice the handshakes arrive that the gateway can finish."""
    starts = {
        "Keybound": lambda: bench.gateways.keybound(bench.data),
        "HAProxy": bench.gateways.haproxy,
        "nginx": bench.gateways.nginx,
        "Envoy": bench.gateways.envoy,
    }

    network = processes.network_of(LOAD_CORE)

    def fresh(start):
        gateway = bench.start(start())
        try:
            if gateway.name == "Keybound":
                bench.see_all(gateway)
            processes.go_first(bench.upstream.popen.pid, processes.UPSTREAM)
            for thread in network:
                processes.go_first(thread, processes.NETWORK)
            return overloaded(bench, gateway)
        finally:
            for pid in (bench.upstream.popen.pid, *network):
                processes.go_first(pid, None)
            gateway.stop()

    contestants = {name: lambda start=start: fresh(start) for name, start in starts.items()}
    figures = bench.alternate(contestants, rounds=min(bench.rounds, 3), key="slower")

    def reported(name, key):
        return [report[key] for report in bench.reports[name]]

    return Outcome(
        "p99 of established connections under twice the capacity × calm",
        figures,
        [
            Limit("p99 × calm", figures["Keybound"], 3, 2),
            Limit("goodput", reported("Keybound", "goodput"), 0.85, at_least=True),
            Limit("offered × capacity", reported("Keybound", "offered"), 1.8, at_least=True),
            Limit("time in which it had work", reported("Keybound", "wanted"), 0.9, at_least=True),
        ],
        [
            f"{name}: calm p99 {statistics.median(reported(name, 'calm_us')):.0f} µs, "
            + ", ".join(f"{what} {percent(reported(name, what))}" for what in ("goodput", "offered", "wanted"))
            for name in starts
        ],
    )


def overloaded(bench, gateway):
    """`slower`: p99 against calm; `goodput`: the share of the gateway's processor time that went into handshakes that were
    answered in time; `offered`: handshakes begun, against the gateway's capacity; `wanted`: how much of the time it had work."""
    cost = bench.run(gateway, Load("handshakes", ("--at-once", 64)))["cost"]
    capacity = 1e6 / cost
    paced = ("--connections", 16, "--every", 20, "--devices", 16, "--wait")

    def established():
        watching = bench.generate(gateway, "requests", (*paced, "--seconds", bench.seconds), ahead=True)
        watching.line()
        return watching

    watching = established()
    watching.say()
    calm = json.loads(watching.line())
    watching.stop()
    # Established before the storm.
    watching = established()
    # Until the storm is what it will be: then those who began it have lost patience.
    brewing = 4
    rate = ("--rate", 2 * capacity, "--seconds", brewing + bench.seconds + 1, "--group", "kept", "--wait")
    flood = bench.generate(gateway, "flood", rate)
    flood.line()
    began, spent, wanted = time.monotonic(), gateway.process.cpu_ns(), gateway.process.wanted_ns()
    flood.say()
    time.sleep(brewing)
    watching.say()
    stormy = json.loads(watching.line())
    flooded = json.loads(flood.line())
    spent, wanted = gateway.process.cpu_ns() - spent, gateway.process.wanted_ns() - wanted
    lasted = time.monotonic() - began
    watching.stop()
    flood.stop()
    if calm["errors"] or stormy["errors"]:
        raise Failed(f"{gateway.name}, established connections: {calm['first_error']} {stormy['first_error']}")
    answered = flooded["answered"]
    return {
        "slower": stormy["p99_us"] / calm["p99_us"],
        "calm_us": calm["p99_us"],
        "storm_us": stormy["p99_us"],
        "goodput": answered["operations"] * cost * 1000 / spent,
        "offered": flooded["offered"] / flooded["seconds"] / capacity,
        "wanted": wanted / 1e9 / lasted,
        "cost": cost,
        "flood": flooded,
    }


def percent(values):
    return f"{statistics.median(values):.0%}"


def workers(bench):
    """Two workers against one: handshakes, and requests on kept connections."""
    outcome = Outcome("µs per operation", {}, [])
    for what, load in (("handshake", Load("handshakes")), ("request", Load("requests"))):
        one, two = f"{what}, 1 worker", f"{what}, 2 workers"
        # Both share both cores with the load, so that they differ in nothing else.
        gateways = {one: bench.keybound(cores=CORES), two: bench.keybound(workers=2, cores=CORES)}
        bench.see_all(*gateways.values())
        figures = bench.alternate(
            {name: lambda gateway=gateway: bench.run(gateway, load, cores=CORES) for name, gateway in gateways.items()}
        )
        outcome.figures |= figures
        outcome.limits.append(Limit(f"2 workers × 1, {what}", ratios(figures, two, one), 1.1, 1.0))
        bench.running.close()
    return outcome


def round_trips(bench):
    """Round trips until a request may be sent, and until its answer is there, through a relay of 50 ms each way."""
    gateway = bench.keybound()
    words = [bench.generator, "round-trips", *bench.peer(gateway), "--group", "default"]
    words += ["--anonymous-name", OPEN_HOST]
    report = processes.last_json(processes.succeed(words))
    with_certificate, without = report["with_certificate"], report["without_certificate"]
    figures = {
        "handshake": [with_certificate["handshake"]],
        "answer": [with_certificate["answer"]],
        "handshake, no certificate": [without["handshake"]],
        "answer, no certificate": [without["answer"]],
    }
    hellos = common_clients(bench, gateway)
    figures |= {f"ClientHellos of {name}": [count] for name, count in hellos.items()}
    return Outcome(
        "round trips, that of TCP not counted",
        figures,
        [
            Limit("until the request", figures["handshake"], 1.2),
            Limit("until the answer", figures["answer"], 2.2),
            Limit("more than without certificate", [with_certificate["answer"] - without["answer"]], 0.1),
            Limit("ClientHellos of any client", [max(hellos.values())], 1),
        ],
        [f"handshakes are {with_certificate['kind']}"],
    )


def common_clients(bench, gateway):
    """How many ClientHellos each sends; two would be a HelloRetryRequest."""
    relay = Process(
        [bench.generator, "relay", gateway.address, "--delay", 5], bench.folder / "relay.log", LOAD_CORE, pipes=True
    )
    try:
        port = json.loads(relay.line())["address"].rpartition(":")[2]
        identity = [bench.folder / "certificates/bench-000000.pem", bench.folder / "requests/bench-000000.key"]
        certificate, key = identity
        root = bench.folder / "root.pem"
        curl = ["curl", "-sSf", "--max-time", 10, "--cacert", root, "--cert", certificate, "--key", key]
        openssl = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost"]
        openssl += ["-CAfile", root, "-cert", certificate, "-key", key, "-verify_return_error"]
        hellos = {}
        for name, command in (("curl", [*curl, f"https://localhost:{port}/16"]), ("openssl", openssl)):
            processes.succeed(command)
            hellos[name] = json.loads(relay.line())["client_hellos"]
    finally:
        relay.stop()
    return hellos


def size(bench):
    """Bytes from the gateway until the handshake is finished."""
    gateways = {
        "Keybound": bench.keybound(),
        "Envoy": bench.start(bench.gateways.envoy()),
        "nginx": bench.start(bench.gateways.nginx()),
        "HAProxy": bench.start(bench.gateways.haproxy()),
    }
    load = Load("handshakes", ("--devices", 100, "--seconds", 0.3))
    contestants = {name: bench.turns(gateway, load) for name, gateway in gateways.items()}
    mlkem = Load("handshakes", (*load.options, "--group", "mlkem"))
    contestants["Keybound, X25519MLKEM768"] = bench.turns(gateways["Keybound"], mlkem)
    figures = bench.alternate(contestants, rounds=1, key="handshake_bytes")
    return Outcome("bytes", figures, [Limit("bytes", figures["Keybound"], 1600, 1000)])


def mlkem(bench):
    """Full handshake and first request with X25519MLKEM768."""
    gateways = {
        "Keybound": bench.keybound(),
        "Envoy": bench.start(bench.gateways.envoy(group="X25519MLKEM768"), probe=False),
    }
    bench.see_all(gateways["Keybound"])
    figures = bench.compare(gateways, Load("handshakes", ("--group", "mlkem")))
    limit = Limit("× Envoy", ratios(figures, "Keybound", "Envoy"), None)
    return Outcome("µs per handshake and request", figures, [limit])


ROWS = {
    "handshake": handshake,
    "first": first,
    "get": get,
    "client-cert": client_cert,
    "streams": streams,
    "download": download,
    "upload": upload,
    "idle-http1": idle_http1,
    "idle-http2": idle_http2,
    "revoked": revoked,
    "overload": overload,
    "workers": workers,
    "round-trips": round_trips,
    "bytes": size,
    "mlkem": mlkem,
}
