"""Embeds a parquet file with Ray Data. The arguments are in bulk.py."""

import bulk
import pyarrow as pa
import ray
from bulk_tasks import Embed


class Actor:
    """Ray starts it again where its process dies, and gives it the same batch again."""

    def __init__(self, job):
        self.worker = bulk.Worker(job)

    def __call__(self, batch):
        return pa.table({"done": [self.worker.do(batch)]})


def over_ray(job):
    start(job)
    rows = ray.data.read_parquet(job.input, columns=list(job.task.columns))
    done = rows.repartition(target_num_rows_per_block=job.batch_rows).map_batches(
        Actor,
        fn_constructor_args=[job],
        batch_size=job.batch_rows,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=job.workers),
        # They wait for the sidecars.
        num_cpus=0.1,
    )
    done.materialize()


def start(job):
    if job.cluster:
        ray.init(job.cluster)
    else:
        ray.init("local", num_cpus=job.workers, include_dashboard=False, _node_ip_address="127.0.0.1")


if __name__ == "__main__":
    bulk.run(Embed, over_ray)
