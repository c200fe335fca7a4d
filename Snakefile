# From a run file to a report: dataset -> train -> sample -> evaluate -> report (rules in workflows/*.smk).
# Runs are workflows/runs/*.yaml; `config: runs=[…]` chooses which to build. Needs the package: pip install -e .
from snakemake.utils import min_version

min_version("9.22")


pathvars:
    benchmarks="logs",


report: "workflows/captions/workflow.rst"


include: "workflows/common.smk"
include: "workflows/dataset.smk"
include: "workflows/train.smk"
include: "workflows/sample.smk"
include: "workflows/evaluate.smk"
include: "workflows/report.smk"


rule all:
    default_target: True
    input:
        "<results>/index.html",
    localrule: True


rule all_runs:
    input:
        all_pages,
    localrule: True
