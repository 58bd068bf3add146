"""A ROS domain of one's own: two demos on one machine must not hear each other."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from internvla_a1.core.errors import ConfigError

# Ports of domain d begin at 7400 + 250 d (DDSI-RTPS 9.6.1.1); above 101 they run into Linux's ephemeral range.
_FIRST, _LAST = 10, 100


class DomainLease:
    """Holds a free domain id until closed or until the process ends: the lock is a socket name, so no file is left behind."""

    def __init__(self) -> None:
        span = _LAST - _FIRST + 1
        for k in range(span):
            domain = _FIRST + (os.getpid() + k) % span
            lock = self._lock(domain)
            if lock is None:
                continue
            if _in_use(domain):
                lock.close()
                continue
            self.domain, self._socket = domain, lock
            return
        raise ConfigError(f"all ROS domains from {_FIRST} to {_LAST} are in use on this machine")

    @staticmethod
    def _lock(domain: int) -> socket.socket | None:
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            lock.bind(f"\0internvla_a1_domain_{domain}")
        except OSError as error:
            lock.close()
            if error.errno == errno.EADDRINUSE:
                return None
            raise
        return lock

    def close(self) -> None:
        self._socket.close()


def _in_use(domain: int) -> bool:
    """Whether a DDS participant of this machine already listens in the domain: its first unicast ports are taken."""
    base = 7400 + 250 * domain
    if any(Path(f"/dev/shm/fastrtps_port{base + offset}").exists() for offset in (0, 10, 11)):
        return True
    for port in (base + 10, base + 11):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return True
    return False
