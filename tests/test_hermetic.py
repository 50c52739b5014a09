"""Tests cannot reach other machines, and libraries are set offline."""

from __future__ import annotations

import socket

import pytest


def test_other_machines_are_out_of_reach() -> None:
    # 192.0.2.0/24 is reserved for documentation (RFC 5737): nothing answers there in any case.
    with pytest.raises(OSError, match="a test tried to reach"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_this_machine_is_within_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), timeout=5):
        pass


def test_hub_library_is_offline() -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
