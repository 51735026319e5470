"""Ending together with a parent: directly below it, and below a program that stands between."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers.cluster import REPOSITORY

CHILD = """\
import os, sys
from trtdisagg.protocol.parent import end_with_parent
end_with_parent(int(sys.argv[1]))
print("lives", flush=True)
sys.stdin.read()
"""
MIDDLE = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"


def start(*argv: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, start_new_session=True
    )


@pytest.mark.parametrize("between", [[], [sys.executable, "-c", MIDDLE]], ids=["directly", "below another"])
def test_it_lives_while_its_parent_does(between: list[str]) -> None:
    with start(*between, sys.executable, "-c", CHILD, str(os.getpid())) as child:
        out, _ = child.communicate("", timeout=60)
    assert (out, child.returncode) == ("lives\n", 0)


def test_one_whose_parent_is_gone_ends_at_once() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait(60)
    with start(sys.executable, "-c", CHILD, str(gone.pid)) as child:
        out, _ = child.communicate("", timeout=60)
    assert (out, child.returncode) == ("", 1)
