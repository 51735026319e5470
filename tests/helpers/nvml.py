"""A machine with GPUs that are made up: what tests/fakes/nvml.c answers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL
from pathlib import Path

import pynvml
import pytest

SOURCE = Path(__file__).resolve().parents[1] / "fakes" / "nvml.c"
TOTAL_MIB = 81920


def build(directory: Path) -> Path:
    """Make the stand-in for the management library."""
    library = directory / "libnvidia-ml.so.1"
    command = ["cc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True, timeout=60)
    return library


def gpu(i: int, *, used_mib: int = 0, cores: int = 0, state: str = "ok", name: str = "Card") -> str:
    """:param cores: bit N for CPU core N."""
    return f"gpu {uuid(i)} {name} {TOTAL_MIB} {used_mib} {cores:x} {state}"


def mig(i: int, *, used_mib: int = 0) -> str:
    """A MIG device of the last GPU."""
    return f"mig MIG-{i:08x}-part {'Card-MIG'} {TOTAL_MIB // 4} {used_mib}"


def fabric(domain: int) -> str:
    """The NVLink domain of the last GPU.

    :param domain: each byte of its UUID.
    """
    return f"fabric {domain}"


def uuid(i: int) -> str:
    return f"GPU-{'abcdefgh'[i]}0000000-0000-0000-0000-000000000000"


class FakeNvml:
    """What the stand-in says, and how programs find it.

    :param library: see `build`.
    :param directory: for the description of the machine.
    """

    def __init__(self, library: Path, directory: Path) -> None:
        self.library = library
        self.description = directory / "nvml.txt"

    def describe(self, *lines: str) -> None:
        """The machine from now on, for programs that run, too."""
        new = self.description.with_suffix(".new")
        new.write_text("".join(f"{line}\n" for line in lines))
        new.replace(self.description)

    @property
    def env(self) -> dict[str, str]:
        """For programs that are started."""
        path = [str(self.library.parent), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {"LD_LIBRARY_PATH": ":".join(path), "FAKE_NVML": str(self.description)}

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """In this process, in place of a real one."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FAKE_NVML", str(self.description))
            patch.setattr(pynvml, "nvmlLib", CDLL(str(self.library)))
            patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
            yield
