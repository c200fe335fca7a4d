"""dataset: what is the data? Writes data.nc."""

from __future__ import annotations

from sciflow.data.schema import DATA, check
from sciflow.data.store import write_dataset
from sciflow.domains.protocol import Dataset
from sciflow.stages.artefact import Job


def run(job: Job, dataset: Dataset) -> None:
    """Make the data set of a run.

    Args:
        job: what to read and write.
        dataset: an entry of the domain's DATASETS.

    Raises:
        InputError: a file that cannot be read, or data that break the schema.
    """
    with job.remembered():
        arrays = dataset.simulate(job.stream)
        check(arrays, DATA, str(job.out))
        write_dataset(job.out, arrays, job.header())
        job.sign(samples=int(arrays.sizes["sample"]), observations=int(arrays.sizes.get("observation", 0)))
