"""Embeds a parquet file with PySpark. The arguments are in bulk.py."""

import math
import os
import sys

import bulk
import pandas as pd
import pyarrow as pa
from bulk_tasks import Embed
from pyspark.sql import SparkSession

# Tries of a task, which is lost with the process that runs it.
TRIES = 4
# Batches of a task: a task has to be started, and its rows are what is handed out again.
BATCHES = 2


def over_spark(job):
    with session(job) as spark:
        rows = spark.read.parquet(job.input).select(*job.task.columns)
        tasks = job.workers * math.ceil(rows.count() / (job.batch_rows * BATCHES * job.workers))

        def each(batches):
            for batch in batches:
                table = pa.Table.from_pandas(batch, preserve_index=False)
                yield pd.DataFrame({"done": [bulk.worker_of(job).do(table)]})

        rows.repartition(tasks).mapInPandas(each, "done long").collect()


def session(job):
    master = job.cluster or f"local[{job.workers},{TRIES}]"
    builder = SparkSession.builder.master(master).appName(f"assay {job.task.__name__}")
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", job.batch_rows)
    builder = builder.config("spark.ui.enabled", False).config("spark.ui.showConsoleProgress", False)
    if not job.cluster:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = builder.config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
    return builder.getOrCreate()


if __name__ == "__main__":
    bulk.run(Embed, over_spark)
