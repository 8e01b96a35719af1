"""Processes that are pinned to a core, and what the kernel says of them."""

import contextlib
import json
import os
import pathlib
import resource
import selectors
import signal
import socket
import subprocess
import time

# The gateway has the first core that this process may use, load and upstream the second.
CORES = sorted(os.sched_getaffinity(0))[:2]
GATEWAY_CORE = CORES[:1]
LOAD_CORE = CORES[1:]
OPEN_FILES = 131_072
# Of those that go first, from the last to the first.
UPSTREAM, BEFORE_UPSTREAM, NETWORK = 10, 20, 30


class Failed(Exception):
    """Something did not do what it has to do."""


class Process:
    """A program on given cores, with its output in a file; it and its children end with `stop`."""

    def __init__(self, command, log, cores, *, ahead=False, pipes=False):
        self.name = pathlib.Path(command[0]).name
        self.log = log
        self.file = open(log, "ab")

        def prepare():
            os.sched_setaffinity(0, cores)
            open_files()
            if ahead:
                go_first(0, BEFORE_UPSTREAM)

        self.popen = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else self.file,
            stderr=self.file,
            # What Python has read already, a selector does not see.
            bufsize=0,
            preexec_fn=prepare,
            # A backtrace for each connection that a gateway drops would be most of the load generator.
            env=os.environ | {"RUST_BACKTRACE": "0"},
        )

    def line(self, within=120):
        """The next line that it prints."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.popen.stdout, selectors.EVENT_READ)
            # Lines come whole: the programs flush once for each.
            if not selector.select(within):
                self.stop()
                raise Failed(f"{self.name} says nothing for {within} s")
        line = self.popen.stdout.readline().decode().strip()
        if not line:
            self.popen.wait()
            raise Failed(f"{self.name} ended: {self.tail()}")
        return line

    def say(self, line=""):
        self.popen.stdin.write(f"{line}\n".encode())
        self.popen.stdin.flush()

    def tail(self):
        return self.log.read_text(errors="replace")[-2000:].strip()

    def pids(self):
        """Its own and those of its children."""
        found = [self.popen.pid]
        for pid in found:
            for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
                found += [int(child) for child in children.read_text().split()]
        return found

    def cpu_ns(self):
        """Processor time in nanoseconds, of all threads, also those that have ended."""
        return sum(time.clock_gettime_ns(cpu_clock(pid)) for pid in self.pids())

    def wanted_ns(self):
        """Time in which its busiest thread ran or waited for the core, in nanoseconds."""
        most = 0
        for pid in self.pids():
            for thread in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
                ran, waited, _ = thread.read_text().split()
                most = max(most, int(ran) + int(waited))
        return most

    def pss_kib(self):
        """Resident memory, what is shared divided by those who share it."""
        total = 0
        for pid in self.pids():
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total

    def ended(self):
        return self.popen.poll() is not None

    def stop(self):
        if not self.ended():
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(5)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        self.file.close()


def cpu_clock(pid):
    """The processor clock of another process: clock_getcpuclockid(3), CPUCLOCK_SCHED."""
    return (~pid << 3) | 2


def go_first(pid, priority):
    """Whoever measures how long things take must not wait for those who make the load; None: as everybody else."""
    policy, priority = (os.SCHED_OTHER, 0) if priority is None else (os.SCHED_FIFO, priority)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(pid, policy, os.sched_param(priority))


def network_of(cores):
    """The kernel's threads that deliver packets on these cores when there are many."""
    names = [f"ksoftirqd/{core}\n" for core in cores]
    return [int(comm.parent.name) for comm in pathlib.Path("/proc").glob("[0-9]*/comm") if said(comm) in names]


def said(file):
    """What a file of a process says, which may have ended."""
    try:
        return file.read_text()
    except OSError:
        return ""


def open_files():
    """How many descriptors a process may have once it has asked for as many as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what, condition, within=30):
    until = time.monotonic() + within
    while not condition():
        if time.monotonic() > until:
            raise Failed(f"{what}: not within {within} s")
        time.sleep(0.02)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def succeed(command, **more):
    """Runs a command that must succeed; what it printed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise Failed(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def last_json(text):
    return json.loads(text.strip().splitlines()[-1])
