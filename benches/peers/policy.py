"""Batch policies: the division of texts into batches, which users of an engine choose."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """`sorted32` is sorted by length in batches of 32, `given32` as handed over, `one` one by one.

    `sorted8x2` computes two batches at a time on one thread each, instead of one on all threads.
    """

    size: int
    by_length: bool
    lanes: int

    @staticmethod
    def parse(name: str) -> "Policy":
        stem, _, lanes = name.partition("x")
        for prefix, by_length in (("sorted", True), ("given", False)):
            if stem.startswith(prefix):
                return Policy(int(stem.removeprefix(prefix)), by_length, int(lanes or 1))
        if stem != "one":
            raise ValueError(f"unknown batch policy {name!r}")
        return Policy(1, False, int(lanes or 1))

    def batches(self, lengths: list[int]) -> list[list[int]]:
        """Indices of the texts per batch, longest first, so that threads finish together."""
        order = list(range(len(lengths)))
        if self.by_length:
            order.sort(key=lambda index: -lengths[index])
        return [order[start : start + self.size] for start in range(0, len(order), self.size)]
