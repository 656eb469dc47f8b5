"""Work on shards, spread over this machine's cores (loky) or a cluster that the user has (Dask, Ray).

A task writes its results to disk, and returns only how many units of progress it was worth, so it does not
matter where it ran. Each backend is a generator that yields what the tasks return: see `tasks.BACKENDS`.

tasks.py          how many workers there are, and what is done by them
loky_tasks.py     by processes of this machine
cluster_tasks.py  by a cluster, whichever it is
dask_tasks.py     by a Dask cluster
ray_tasks.py      by a Ray cluster
common.py         what all of these need
"""

from s3prl_melhubert.pretrain.data.workers.tasks import BACKENDS, Workers, run_tasks

__all__ = ["BACKENDS", "Workers", "run_tasks"]
