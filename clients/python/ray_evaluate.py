"""Evaluates a parquet file of samples with Ray Data. The arguments are in bulk.py."""

import bulk
from bulk_tasks import Evaluate
from ray_embed import over_ray

if __name__ == "__main__":
    bulk.run(Evaluate, over_ray)
