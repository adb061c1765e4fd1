"""Process of one engine that implements protocol.py: `python worker.py NAME`."""

import sys

import engines
import protocol

if __name__ == "__main__":
    protocol.serve(engines.make(sys.argv[1]))
