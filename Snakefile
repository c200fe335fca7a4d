# From a run file to a report: dataset -> train -> sample -> evaluate -> report (rules in workflows/*.smk).
# Runs are workflows/runs/*.yaml; `config: runs=[…]` chooses which to build. Needs the package: pip install -e .
from snakemake.utils import min_version

min_version("9.22")


pathvars:
    benchmarks="logs",


# GPUs of this machine: a limit on them holds for jobs that run here, and neither delays nor cuts those of a cluster.
resource_scopes:
    local_gpu="local",


report: "workflows/captions/workflow.rst"


include: "workflows/common.smk"
include: "workflows/dataset.smk"
include: "workflows/train.smk"
include: "workflows/sample.smk"
include: "workflows/evaluate.smk"
include: "workflows/report.smk"
include: "workflows/together.smk"


rule all:
    default_target: True
    input:
        "<results>/index.html",
    localrule: True


rule all_runs:
    input:
        all_pages,
    localrule: True
