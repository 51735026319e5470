"""What an agent tells its child."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from trtdisagg.protocol.commands import Commands, SwitchRole, encode_command


class Pipe:
    def __init__(self) -> None:
        read_fd, self._fd = os.pipe()
        self.commands = Commands(read_fd)

    def write(self, data: bytes) -> None:
        os.write(self._fd, data)

    def end(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        self.commands.close()
        if self._fd >= 0:
            self.end()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_a_command_arrives_as_it_was_sent(pipe: Pipe) -> None:
    pipe.write(encode_command(SwitchRole(role="context")) + encode_command(SwitchRole(role="both")))
    assert pipe.commands.receive() == [SwitchRole(role="context"), SwitchRole(role="both")]


def test_reading_never_waits(pipe: Pipe) -> None:
    assert pipe.commands.receive() == []
    assert not pipe.commands.is_over


def test_a_line_may_come_in_pieces(pipe: Pipe) -> None:
    line = encode_command(SwitchRole(role="generation"))
    pipe.write(line[:7])
    assert pipe.commands.receive() == []
    pipe.write(line[7:])
    assert pipe.commands.receive() == [SwitchRole(role="generation")]


@pytest.mark.parametrize("line", [b"nonsense\n", b'{"type":"dance"}\n', b'{"type":"switch_role","role":"cook"}\n'])
def test_what_is_not_understood_is_said_and_does_no_harm(
    pipe: Pipe, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    pipe.write(line + encode_command(SwitchRole(role="context")))
    assert pipe.commands.receive() == [SwitchRole(role="context")]
    assert "is not understood" in caplog.text


def test_a_line_without_an_end_is_not_kept_for_ever(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    pipe.write(b"x" * 5000)
    assert pipe.commands.receive() == []
    assert "without an end" in caplog.text
    pipe.write(encode_command(SwitchRole(role="context")))
    assert pipe.commands.receive() == [SwitchRole(role="context")]


def test_the_end_of_the_pipe_is_seen(pipe: Pipe) -> None:
    pipe.write(encode_command(SwitchRole(role="context")))
    pipe.end()
    assert pipe.commands.receive() == [SwitchRole(role="context")]
    assert pipe.commands.is_over
    assert pipe.commands.receive() == []


def test_started_by_hand_nobody_commands() -> None:
    commands = Commands(None)
    assert commands.is_over
    assert commands.receive() == []
    commands.close()
