#!/usr/bin/env bash
# A new LLM on a trained router, and how sure routers are: results/new_llms.md and results/certainty.md.
#   bash train_scripts/new_llms.sh                       57 runs of about 15 s of a core, then two pages
#   bash train_scripts/new_llms.sh --seeds 1             one seed
# The runs are those of the recipes `tuned` and `frozen`, and of train_scripts/plans/new_llms.yaml. Finished ones are
# skipped, a stopped one goes on, and so do the pages: what was measured or encoded is kept.
# Flags: those of `python -m utils.plan --help`, such as --seeds or --dry_run; others go to train_router_mdeberta.py.
# Variables: RUNS, the folder of the runs; RESULTS, the folder of the pages.
set -euo pipefail
cd "$(dirname "$0")/.."

RUNS="${RUNS:-runs}"
RESULTS="${RESULTS:-results}"

source train_scripts/env.sh
if [[ " $* " != *" --dry_run "* ]]; then python -m utils.download; fi
python -m utils.plan --recipe tuned --encoder minilm --runs "$RUNS" "$@"
python -m utils.plan --recipe frozen --encoder minilm --runs "$RUNS" "$@"
python -m utils.plan --plan train_scripts/plans/new_llms.yaml --runs "$RUNS/new_llms" "$@"
if [[ " $* " == *" --dry_run "* ]]; then exit; fi
full=("$RUNS/minilm_tuned/paper" "$RUNS/minilm_frozen/paper")
python -m utils.report.new_llms "${full[@]}" --without "$RUNS/new_llms" --results "$RESULTS"
python -m utils.report.certainty "${full[@]}" "$RUNS/new_llms/held_out" --results "$RESULTS"
