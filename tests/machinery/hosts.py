"""Other machines on this one: network namespaces, joined by a switch. Making them needs root."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from needs import lacking


@dataclass(frozen=True)
class Host:
    """A machine with an address and a folder of its own. The hidden folders of this machine are empty there."""

    name: str
    address: str
    folder: Path
    hidden: tuple[Path, ...] = ()

    def command(self, *words: str | Path) -> list[str]:
        """What runs a command on that machine."""
        covers = [f"mount -t tmpfs none '{folder}'" for folder in self.hidden]
        start = " && ".join([*covers, 'exec "$@"'])
        return ["ip", "netns", "exec", self.name, "sh", "-c", start, "sh", *map(str, words)]

    def processes(self) -> list[psutil.Process]:
        """What runs there now."""
        pids = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True).stdout
        return [psutil.Process(int(pid)) for pid in pids.split() if psutil.pid_exists(int(pid))]

    def commands(self) -> list[str]:
        """The command lines of what runs there now."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                found.append(" ".join(process.cmdline()))
        return found

    def crash(self) -> None:
        """End everything that runs there, at once."""
        for process in self.processes():
            process.kill()

    def unplug(self) -> None:
        """Pull its cable: packets are lost, and neither side hears of it."""
        _ip("link", "set", f"{self.name}c", "down")

    def plug(self) -> None:
        """Put the cable back."""
        _ip("link", "set", f"{self.name}c", "up")


@dataclass
class Network:
    """A switch that this machine and others hang on. `address`: this machine's."""

    switch: str
    address: str
    hosts: list[Host] = field(default_factory=list)

    def host(self, folder: Path, hidden: Sequence[Path] = ()) -> Host:
        """Add a machine."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.switch}h{len(self.hosts)}"
        net, _, _ = self.address.rpartition(".")
        made = Host(name, f"{net}.{2 + len(self.hosts)}", folder, tuple(hidden))
        _ip("netns", "add", name)
        self.hosts.append(made)
        _ip("link", "add", f"{name}c", "type", "veth", "peer", "name", "cable", "netns", name)
        _ip("link", "set", f"{name}c", "master", self.switch, "up")
        _ip("-netns", name, "address", "add", f"{made.address}/24", "dev", "cable")
        for device in ("cable", "lo"):
            _ip("-netns", name, "link", "set", device, "up")
        return made


@contextmanager
def network() -> Iterator[Network]:
    """A network for as long as a test needs it. Servers of this machine are reached there at its address."""
    if os.geteuid() != 0 or subprocess.run(["ip", "netns", "list"], capture_output=True).returncode != 0:
        lacking("hosts", "Other machines are network namespaces, which need root and iproute2")
    own = os.getpid() % 2**12
    made = Network(f"s{own}", f"10.{80 + own // 256}.{own % 256}.1")
    _ip("link", "add", made.switch, "type", "bridge")
    try:
        _ip("address", "add", f"{made.address}/24", "dev", made.switch)
        _ip("link", "set", made.switch, "up")
        yield made
    finally:
        for each in made.hosts:
            _ip("netns", "delete", each.name)
        _ip("link", "delete", made.switch)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
