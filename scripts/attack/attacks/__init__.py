"""The attacks. Each gets a running server and returns when it is finished. The order of imports is the order of the table."""

from . import evaluate, bombs, memory, connections, frames, far_side, errors  # noqa: F401, I001
from .registry import ATTACKS, Attack  # noqa: F401
