"""Directories, ports and the secret's file against what the plan will do with them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trtdisagg.supervisor import logfile
from trtdisagg.supervisor.doctor.facts import Disk, Facts
from trtdisagg.supervisor.doctor.finding import Finding, size_words
from trtdisagg.supervisor.plan import Plan

NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "9p", "fuse.")
MIN_HUB_BYTES = 2**30
MIN_RUNTIME_BYTES = 2**20


def ports(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    fixed = [child for child in plan.children if child.spec.port] if plan else []
    if facts.running_pid is not None:
        yield Finding(topic="ports", found=f"this cluster runs (pid {facts.running_pid}) and has its ports")
        return
    for child in fixed:
        if why := facts.busy.get(child.name):
            mine = "End that process, or give another port (`--set port=...`; of servers, `urls`)"
            remedy = (
                mine if "in use" in why else "Give an address of this host (`--set hostname=...`; of servers, `urls`)"
            )
            yield Finding(topic="ports", severity="error", found=why, remedy=remedy)
    if free := [child.url for child in fixed if child.name not in facts.busy]:
        yield Finding(topic="ports", found=f"free: {', '.join(free)}")


def runtime(_plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    disk = facts.runtime
    found = f"{disk.path} ({disk.filesystem or 'unknown'})"
    if not disk.is_writable:
        yield _unwritable("runtime directory", disk, "set XDG_RUNTIME_DIR to a directory of yours")
    elif disk.free_bytes < MIN_RUNTIME_BYTES:
        remedy = "Free some space, or set XDG_RUNTIME_DIR to a directory that has some"
        yield Finding(topic="runtime directory", severity="error", found=f"{found} is full", remedy=remedy)
    elif _is_remote(disk):
        remedy = "Sockets and locks need a file system of this host: set XDG_RUNTIME_DIR to a tmpfs"
        yield Finding(topic="runtime directory", severity="warning", found=found, remedy=remedy)
    elif facts.runtime_is_fallback:
        why = "XDG_RUNTIME_DIR is no directory, or its path is too long for the address of a socket"
        remedy = "Every command must see the same one: unset it, or set it to a short path that is there"
        yield Finding(topic="runtime directory", severity="warning", found=found, needs=why, remedy=remedy)
    else:
        yield Finding(topic="runtime directory", found=found, needs="sockets, lock and spec files")


def logs(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    disk = facts.state
    num_logs = len(plan.children) + 1 if plan else 1
    most = num_logs * logfile.MAX_BYTES * (1 + logfile.NUM_OLD_FILES)
    found = f"{size_words(disk.free_bytes)} free in {disk.path}"
    wanted = f"logs grow to {size_words(most)} at most"
    if not disk.is_writable:
        yield _unwritable("logs", disk, "set XDG_STATE_HOME to a directory of yours")
    elif disk.free_bytes < most:
        remedy = "Free some space, or set XDG_STATE_HOME; when the disk is full, lines are lost and servers go on"
        yield Finding(topic="logs", severity="warning", found=found, needs=wanted, remedy=remedy)
    else:
        yield Finding(topic="logs", found=found, needs=wanted)


def hub_cache(_plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    disk = facts.hub_cache
    found = f"{size_words(disk.free_bytes)} free in {disk.path}"
    if disk.free_bytes < MIN_HUB_BYTES:
        remedy = "A model from the hub would not fit: free some space, or set HF_HOME to a larger disk"
        yield Finding(topic="hub cache", severity="warning", found=found, remedy=remedy)
    else:
        yield Finding(topic="hub cache", found=found)


def secret(plan: Plan | None, facts: Facts) -> Iterator[Finding]:
    if plan is None:
        return
    if plan.secret_file is None:
        found = "made for each run" if plan.makes_secret else "none: only addresses of this host are listened on"
        yield Finding(topic="secret", found=found)
    elif facts.secret_mode is None:
        yield Finding(topic="secret", severity="error", found=f"{plan.secret_file} is not there", remedy=_MAKE_SECRET)
    elif facts.secret_mode & 0o077:
        found = f"{plan.secret_file} has mode {facts.secret_mode:04o}"
        remedy = f"`chmod 600 {plan.secret_file}`"
        yield Finding(topic="secret", severity="error", found=found, needs="only its owner may read it", remedy=remedy)
    else:
        yield Finding(topic="secret", found=f"{plan.secret_file}, mode {facts.secret_mode:04o}")


_MAKE_SECRET = "Make one: `(umask 077; head -c 32 /dev/urandom | base64 > FILE)`"  # noqa: S105


def _unwritable(topic: str, disk: Disk, way_out: str) -> Finding:
    nearest = Path(disk.path)
    return Finding(
        topic=topic, severity="error", found=f"{nearest} cannot be written to", remedy=way_out[0].upper() + way_out[1:]
    )


def _is_remote(disk: Disk) -> bool:
    return disk.filesystem.startswith(NETWORK_FILESYSTEMS)
