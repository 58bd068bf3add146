"""The heap of processes that run for weeks: what is dead is let go of every second, and bursts find room that is there already."""

from __future__ import annotations

import subprocess
import sys

PRELUDE = """
import gc, os, sys
from internvla_a1.core.memory import settle, steady_heap, tidy
def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
steady_heap()
"""


def run(body: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", PRELUDE + body], capture_output=True, text=True, timeout=60, check=True)
    return [float(word) for word in done.stdout.split()]


def test_tidy_lets_go_of_the_freed_tuples_that_generators_leave() -> None:
    """3000 tuples of 1 to 9 items each, made from generators: without a full collection Python keeps some thousands of them."""
    body = """
settle()
before = sys.getallocatedblocks()
for n in range(1, 10):
    for _ in range(3000):
        tuple(i for i in range(n))
kept = sys.getallocatedblocks() - before
tidy()
print(kept, sys.getallocatedblocks() - before)
"""
    kept, after = run(body)
    assert kept > 5000
    assert after < 200


def test_spare_heap_takes_a_burst_without_growing() -> None:
    body = """
settle(8)
before = resident_mb()
burst = [bytearray(150_528) for _ in range(40)]  # 6 MB of pictures
during = resident_mb()
del burst
print(during - before, resident_mb() - before)
"""
    during, after = run(body)
    assert during < 0.5
    assert after < 0.5


def test_spare_heap_is_not_in_use_and_what_leaks_into_it_is() -> None:
    body = """
from internvla_a1.core.memory import heap_in_use_mb
before = heap_in_use_mb()
settle(8)
spare, resident = heap_in_use_mb(), resident_mb()
leak = [bytes(10_000) for _ in range(400)]
print(spare - before, heap_in_use_mb() - spare, resident_mb() - resident)
"""
    spare, leaked, resident = run(body)
    assert abs(spare) < 0.2
    assert 3.9 < leaked < 4.2
    assert resident < 0.5
