"""The compiled kernels: built from the C++ files beside this one at their first use, kept in the user's cache directory."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import lru_cache
from pathlib import Path

import torch

SOURCES = Path(__file__).parent
COMMON = ("-O3", "-std=c++17", "-fPIC", "-mfma")
AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
DOTS = (*COMMON, *AVX512, "-fopenmp", "-mavx512bf16", "-mavx512vnni", "-mprfchw")
TILES = (*DOTS, "-mamx-tile", "-mamx-bf16", "-mamx-int8")
VECTORS = {"AVX512": (*COMMON, *AVX512), "AVX2": (*COMMON, "-mavx2")}  # by what torch says this CPU can do
AMX, VECTORS_ONLY = "AMX", "AVX-512"  # what kernels.cpp is compiled for
SWITCH = "INTERNVLA_A1_KERNELS"  # "off" leaves everything to torch, "avx512" does without AMX
LOCK = threading.Lock()  # one call at a time: the kernels keep their scratch memory
log = logging.getLogger(__name__)


def cpu_has_dots() -> bool:
    """AVX-512 with products of bfloat16 and of int8."""
    return sys.platform == "linux" and bool(torch.cpu._is_avx512_bf16_supported() and torch.cpu._is_vnni_supported())


def cpu_has_tiles() -> bool:
    """AMX, and the AVX-512 that comes with it."""
    return cpu_has_dots() and bool(torch.cpu._is_amx_tile_supported())


def library() -> ctypes.CDLL | None:
    """The kernels, ready to be called, or None where this machine cannot have them; a missing compiler is logged once."""
    return _chosen()[0]


def instructions() -> str:
    """AMX or AVX-512: what `library` was compiled for; empty without one."""
    return _chosen()[1]


@lru_cache(maxsize=1)
def _chosen() -> tuple[ctypes.CDLL | None, str]:
    if switched_off() or not cpu_has_dots():
        return None, ""
    if cpu_has_tiles() and os.environ.get(SWITCH, "").lower() != "avx512":
        loaded = _loaded("kernels.cpp", TILES, "AMX kernels")
        if loaded is None:
            return None, ""
        loaded.kernels_init.restype = ctypes.c_long
        if loaded.kernels_init() == 0:
            return loaded, AMX
        log.warning("this system does not hand out AMX tile registers, AVX-512 vectors compute instead (slower)")
    loaded = _loaded("kernels.cpp", DOTS, "AVX-512 kernels")
    return loaded, VECTORS_ONLY if loaded is not None else ""


def forget() -> None:
    """Look again: the environment has changed."""
    for chosen in (_chosen, small_library, small_codec_library):
        chosen.cache_clear()


@lru_cache(maxsize=1)
def small_library() -> ctypes.CDLL | None:
    """The layers of small experts (small.cpp) for this CPU's vectors, or None; as `library`."""
    loaded = _for_vectors("small.cpp", "kernels for small models")
    if loaded is not None:
        loaded.small_block.restype = loaded.small_floats.restype = ctypes.c_long
    return loaded


@lru_cache(maxsize=1)
def small_codec_library() -> ctypes.CDLL | None:
    """The encoder of small image tokenizers (codec.cpp) for this CPU's vectors, or None; as `library`."""
    loaded = _for_vectors("codec.cpp", "kernels for small image tokenizers")
    if loaded is not None:
        loaded.codec_block.restype = ctypes.c_long
    return loaded


def _for_vectors(source: str, what: str) -> ctypes.CDLL | None:
    flags = VECTORS.get(torch.backends.cpu.get_cpu_capability())
    return None if switched_off() or sys.platform != "linux" or flags is None else _loaded(source, flags, what)


def switched_off() -> bool:
    return os.environ.get(SWITCH, "").lower() in ("off", "0")


def _loaded(source: str, flags: tuple[str, ...], what: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_built(source, flags)))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the %s could not be built, torch computes instead (slower): %s", what, error)
        return None


def _built(main: str, flags: tuple[str, ...]) -> Path:
    """Path of the shared object of this source with these flags; compiled in some seconds if it is not there."""
    sources = [*sorted(SOURCES.glob("*.h")), SOURCES / main]
    digest = hashlib.sha256("\0".join(flags).encode())
    for source in sources:
        digest.update(source.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "internvla_a1"
    target = cache / f"{Path(main).stem}-{digest.hexdigest()[:16]}.so"
    if target.is_file():
        return target
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        raise OSError("no g++ on the path (Debian, Ubuntu: apt-get install g++)")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        objects = Path(folder) / "kernels.o"
        run = [compiler, *flags, "-c", str(SOURCES / main), "-o", str(objects)]
        done = subprocess.run(run, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise OSError(done.stderr.strip()[-2000:])
        # not linked to an OpenMP runtime: the calls bind to the one that torch has loaded, so both share one pool of threads
        shared = Path(folder) / "kernels.so"
        subprocess.run([compiler, "-shared", str(objects), "-o", str(shared)], check=True, capture_output=True, timeout=300)
        os.replace(shared, target)
    return target
