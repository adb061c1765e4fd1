"""Finds grpc-status in a header block without a Huffman decoder.

The client announces a header table of size 0 (SETTINGS_HEADER_TABLE_SIZE), so each header that the static table lacks
arrives as a literal. Names and values are plain or in Huffman's code (RFC 7541, appendix B); the codes of this one name
and of the numbers from 0 to 16 are all that is needed.
"""

CODES = {
    "0": "00000", "1": "00001", "2": "00010", "3": "011001", "4": "011010", "5": "011011", "6": "011100", "7": "011101",
    "8": "011110", "9": "011111", "a": "00011", "c": "00100", "g": "100110", "p": "101011", "r": "101100", "s": "01000",
    "t": "01001", "u": "101101", "-": "010110",
}


def huffman(text: str) -> bytes:
    bits = "".join(CODES[character] for character in text)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


NAMES = {b"grpc-status", huffman("grpc-status")}
STATUSES = {code(str(status)): status for status in range(17) for code in (str.encode, huffman)}


def grpc_status(block: bytes) -> int | None:
    """The value of grpc-status; None if the block has none. Source: RFC 7541, section 6."""
    at = 0

    def integer(bits: int) -> int:
        nonlocal at
        most = (1 << bits) - 1
        value, at, shift = block[at] & most, at + 1, 0
        while value >= most:
            value += (block[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if block[at - 1] < 128:
                break
        return value

    def text() -> bytes:
        nonlocal at
        length = integer(7)
        at += length
        return block[at - length : at]

    while at < len(block):
        if block[at] & 0x80:  # an entry of the static table
            integer(7)
        elif block[at] & 0xE0 == 0x20:  # the size of the dynamic table
            integer(5)
        else:
            name = b"" if integer(6 if block[at] & 0x40 else 4) else text()
            value = text()
            if name in NAMES:
                return STATUSES.get(value)
    return None
