"""PROXY headers as a proxy writes them, from the text of the specification and by none of our own code."""

from __future__ import annotations

import socket
import struct

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
TLVS = struct.pack("!BH", 4, 3) + b"pad" + struct.pack("!BH", 0x20, 5) + b"\x01\0\0\0\0"  # NOOP, and SSL


def version1(client: str, port: int, local: str, local_port: int = 25) -> bytes:
    """The line of version 1 for a TCP connection."""
    family = "TCP6" if ":" in client else "TCP4"
    return f"PROXY {family} {client} {local} {port} {local_port}\r\n".encode()


def version2(client: str, port: int, local: str, local_port: int = 25, more: bytes = b"") -> bytes:
    """The octets of version 2 for a TCP connection, with TLVs or not."""
    six = ":" in client
    family = socket.AF_INET6 if six else socket.AF_INET
    block = socket.inet_pton(family, client) + socket.inet_pton(family, local) + struct.pack("!HH", port, local_port)
    return binary(0x21, 0x21 if six else 0x11, block + more)


def binary(command: int, family: int, block: bytes) -> bytes:
    """Any header of version 2."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


LOCAL = binary(0x20, 0, b"")
