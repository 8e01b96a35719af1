"""How a row is measured: gateways, load, turns, and what is judged."""

import contextlib
import dataclasses
import json
import statistics
import time

import processes
from gateways import Gateways
from processes import LOAD_CORE, Failed, Process


@dataclasses.dataclass
class Limit:
    """A median that must not be exceeded, and one that is wanted."""

    what: str
    values: list
    must: float | None
    aim: float | None = None
    # Larger is better.
    at_least: bool = False

    @property
    def median(self):
        return statistics.median(self.values)

    def within(self, bound):
        return self.median >= bound if self.at_least else self.median <= bound

    @property
    def verdict(self):
        if self.must is None:
            return "for information"
        if not self.within(self.must):
            return "MISSED"
        return "aim met" if self.aim is not None and self.within(self.aim) else "must met"


@dataclasses.dataclass
class Outcome:
    """What a row measured: figures by contestant, what is judged, and what else is worth saying."""

    unit: str
    figures: dict
    limits: list
    notes: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Load:
    """A run of the load generator against a gateway."""

    command: str
    options: tuple = ()
    # By what the processor time is divided, and what that makes of a microsecond.
    per: str = "operations"
    times: float = 1.0
    # Seconds after which everything that the run caused is done.
    settles: float = 0.05


class Bench:
    """What rows need: gateways, the load generator, and how long to measure."""

    def __init__(self, folder, binaries, envoy, upstream, *, rounds, seconds, devices, fleet):
        self.folder = folder
        self.generator = binaries / "keybound-bench"
        self.upstream = upstream
        address = json.loads(upstream.line())["address"]
        self.gateways = Gateways(folder, binaries, envoy, address)
        # How many certificates are issued, and how many of them revoked, where there are many.
        self.fleet = fleet
        self.data = folder / "data"
        self.rounds = rounds
        self.seconds = seconds
        self.devices = devices
        self.running = contextlib.ExitStack()
        # What the load generator reported in this row, by contestant.
        self.reports = {}

    # Gateways

    def start(self, gateway, *, probe=True):
        """A gateway that ends with the row. The first request checks what is not checked under load."""
        self.running.callback(gateway.stop)
        if probe:
            self.probe(gateway)
        return gateway

    def keybound(self, data=None, **options):
        return self.start(self.gateways.keybound(data or self.data, **options))

    def probe(self, gateway):
        """One request as a careful device sends it; what the upstream was told."""
        roots = ["--roots", self.folder / "root.pem"]
        text = processes.succeed([self.generator, "probe", *self.peer(gateway), *roots])
        return processes.last_json(text)

    def see_all(self, *gateways):
        """Every device connects once to these, which learn something from it; then that is written down."""
        for gateway in gateways:
            self.run(gateway, Load("handshakes", ("--warm", self.devices, "--seconds", 0.1)))
        time.sleep(2)

    # Load

    def peer(self, gateway):
        requests, certificates = self.folder / "requests", self.folder / "certificates"
        return ["--gateway", gateway.address, "--keys", requests, "--certificates", certificates]

    def generate(self, gateway, command, options, *, ahead=False, cores=None):
        """Starts the load generator, which waits for a line when it is ready."""
        words = [self.generator, command, *self.peer(gateway), *options]
        log = self.folder / "load.log"
        return Process(words, log, cores or LOAD_CORE, ahead=ahead, pipes=True)

    def run(self, gateway, load, *, cores=None):
        """A report of the load generator, with the gateway's processor time for each operation in `cost`."""
        seconds = () if "--seconds" in load.options else ("--seconds", self.seconds)
        options = (*load.options, *seconds, "--wait")
        generator = self.generate(gateway, load.command, options, cores=cores)
        try:
            if generator.line() != "ready":
                raise Failed(f"{load.command} is not ready")
            # What the preparation left to do is done.
            time.sleep(0.2)
            before, began = gateway.process.cpu_ns(), time.monotonic()
            generator.say()
            report = json.loads(generator.line(within=300))
            ended = time.monotonic()
            time.sleep(load.settles)
            spent = gateway.process.cpu_ns() - before
        finally:
            generator.stop()
        if report["errors"]:
            raise Failed(f"{gateway.name}, {load.command}: {report['errors']} errors: {report['first_error']}")
        if not report[load.per]:
            raise Failed(f"{gateway.name}, {load.command}: nothing was done")
        report["cost"] = spent / 1000 / report[load.per] * load.times
        report["busy"] = spent / 1e9 / (ended - began)
        return report

    def alternate(self, contestants, *, rounds=None, key="cost"):
        """Lets contestants, each a function that measures once, take turns; what each measured, by name."""
        figures = {name: [] for name in contestants}
        self.reports |= {name: [] for name in contestants}
        names = list(contestants)
        for number in range(rounds or self.rounds):
            # Nobody always comes after the same one.
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                report = contestants[name]()
                figures[name].append(report[key])
                self.reports[name].append(report)
        return figures

    def compare(self, gateways, load):
        """Each gateway under the same load, in turns."""
        return self.alternate({name: self.turns(gateway, load) for name, gateway in gateways.items()})

    def turns(self, gateway, load):
        return lambda: self.run(gateway, load)


def ratios(figures, name, other):
    """What one cost relative to another, round by round."""
    return [ours / theirs for ours, theirs in zip(figures[name], figures[other], strict=True)]


def better(figures, *names):
    return min(names, key=lambda name: statistics.median(figures[name]))
