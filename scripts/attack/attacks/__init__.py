"""The attacks: each gets a running server, and returns when it has done its worst. The imports are in the table's order."""

from . import evaluate, bombs, memory, connections, frames, far_side, errors  # noqa: F401, I001
from .registry import ATTACKS, Attack  # noqa: F401
