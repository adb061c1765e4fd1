"""Messages that are small on the wire and large in memory."""

import contextlib
import gzip
import struct
import time
import zlib

from http2 import EMBED, EVALUATE, INVALID_ARGUMENT, TOKENIZE, Closed, Connection, inputs, varint
from server import Server

from .registry import MIB, attack, before, calls, side_by_side


@attack("bomb-metrics", quick=True)
def _(server, seconds):
    """16 KB of gzip that unpack to 8 Mi empty metric selections"""
    calls(server, seconds, EVALUATE, gzip.compress(b"\x12\0" * (8 * MIB - 1)), 4, compressed="gzip")


@attack("bomb-unknown-metrics")
def _(server, seconds):
    """619 bytes of gzip that unpack to 300,000 empty metric selections"""
    calls(server, seconds, EVALUATE, gzip.compress(b"\x12\0" * 300_000), 4, compressed="gzip")


@attack("bomb-contexts")
def _(server, seconds):
    """16 MiB of two-byte elements: empty contexts"""
    contexts = b"\x1a\0" * (8 * MIB - 16)
    payload = b"\x0a" + bytes([len(contexts) >> shift & 127 | (128 if shift < 21 else 0) for shift in (0, 7, 14, 21)]) + contexts
    calls(server, seconds, EVALUATE, payload, 2)


@attack("bomb-inputs")
def _(server, seconds):
    """16 MiB of two-byte elements: empty inputs"""
    calls(server, seconds, EMBED, b"\x0a\0" * (8 * MIB - 1), 2)


@attack("bomb-groups")
def _(server, seconds):
    """16 MiB of unknown groups, and messages nested deeper than any"""
    calls(server, seconds / 2, EMBED, b"\x7b\x7c" * (8 * MIB - 1), 2)
    calls(server, seconds / 2, EMBED, b"\x7b" * 100_000, 2)


@attack("tokenize-16MiB")
def _(server, seconds):
    """Tokenize of 15.9 MiB, from four callers"""
    payload = inputs(*["a " * 65_000] * 127)
    calls(server, seconds, TOKENIZE, payload, 4, grpc_timeout="8S")


# Compressed beyond the limit of a message

def refused(server: Server, seconds: float, compressed: str, bombs: dict[str, bytes]) -> str | None:
    """Sends each of the bombs to Embed, again and again, from two callers: each must be answered INVALID_ARGUMENT."""
    end, wrong = time.monotonic() + seconds, []

    def work(_: int) -> None:
        for _ in before(end):
            for name, bomb in bombs.items():
                status = None
                with contextlib.suppress(Closed, OSError):
                    connection = Connection(server.port, timeout=15)
                    connection.call(EMBED, bomb, compressed)
                    status = connection.status
                if status != INVALID_ARGUMENT:
                    wrong.append(f"{name}: grpc-status {status}")

    side_by_side(2, work)
    return wrong[0] if wrong else None


@attack("bomb-gzip")
def _(server, seconds):
    """4 MB of gzip that unpack to 4 GiB, with and without a length that is a lie"""
    packer = zlib.compressobj(9, wbits=-15)
    mebibyte = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    # The last four bytes are the length modulo 2^32. Source: RFC 1952, section 2.3.1.
    four_gib = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + mebibyte * 4096 + packer.flush()
    told = {"told as 0 B": 0, "told as 1 KB": 1000, "told as 16 MiB": 16 * MIB, "told as 2 GiB": 2 << 30}
    bombs = {name: four_gib + struct.pack("<II", 0, length) for name, length in told.items()}
    return refused(server, seconds, "gzip", bombs | {"64 MiB": gzip.compress(bytes(64 * MIB), 1)})


def zstd(blocks: int, start: bytes = b"", window_log: int = 23, told: int | None = None) -> bytes:
    """A frame of `start` and so many blocks of 128 KiB of the letter a, four bytes each. Source: RFC 8878, section 3.1.1."""
    frame = b"\x28\xb5\x2f\xfd" + bytes([0xC0 if told is not None else 0, (window_log - 10) << 3])
    frame += struct.pack("<Q", told) if told is not None else b""
    # Last block, kind (0 is raw, 1 repeats one byte), size.
    frame += struct.pack("<I", len(start) << 3)[:3] + start
    repeated = [struct.pack("<I", (n == blocks - 1) | 1 << 1 | (128 << 10) << 3)[:3] + b"a" for n in range(blocks)]
    return frame + b"".join(repeated)


@attack("bomb-zstd")
def _(server, seconds):
    """zstd of 4 bytes for 128 KiB: one input of nearly 16 MiB, 1 GiB, lengths that are a lie, a window of 2 GiB"""
    one_input = zstd(127, b"\x0a" + varint(127 * 128 << 10))
    bombs = {
        "one input of 15.9 MiB": one_input, "1 GiB": zstd(8192), "told as 1 TiB": zstd(1, told=1 << 40),
        "told as 1 KB": zstd(8192, told=1000), "window of 2 GiB": zstd(1, window_log=31),
    }
    return refused(server, seconds, "zstd", bombs)
