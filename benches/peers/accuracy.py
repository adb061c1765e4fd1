"""Accuracy of the vectors of an engine, compared with sentence-transformers in f32."""

import numpy as np

NEIGHBOURS = 10
# Below this mean, times are discarded because the engine computes something else. A lower minimum is reported.
LEAST_COSINE = 0.97


def compare(vectors: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Cosine similarity per text, and recall of the ten nearest neighbours of each text."""
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
