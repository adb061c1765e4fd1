"""Evaluates a parquet file of samples with PySpark. The arguments are in bulk.py."""

import bulk
from bulk_tasks import Evaluate
from spark_embed import over_spark

if __name__ == "__main__":
    bulk.run(Evaluate, over_spark)
