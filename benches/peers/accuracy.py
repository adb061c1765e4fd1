"""How near an engine's vectors are to those of sentence-transformers in f32."""

import numpy as np

NEIGHBOURS = 10
# With a lower mean, times are not written down: the engine computes something else. A lower minimum is told.
LEAST_COSINE = 0.97


def compare(vectors: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Cosines by text, and the share of each text's ten nearest others that stay its nearest."""
    cosines = np.sum(vectors.astype(np.float64) * reference, axis=1)
    cosines /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    return {
        "min_cosine": float(cosines.min()),
        "mean_cosine": float(cosines.mean()),
        "recall_at_10": _shared(_nearest(vectors), _nearest(reference)),
    }


def _nearest(vectors: np.ndarray) -> np.ndarray:
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -2)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :NEIGHBOURS]


def _shared(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / NEIGHBOURS for a, b in zip(found, wanted)]))
