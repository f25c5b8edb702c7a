#!/usr/bin/env bash
# How the MiniLM recipes were chosen: candidates compared on validation rows only, no test file is opened.
#   bash train_scripts/search_minilm.sh        170 runs of 5 to 10 s on one core; one candidate takes 4 minutes a run
#   bash train_scripts/search_minilm.sh --only paper gain --seeds 1 2
# The candidates are those of train_scripts/plans/search.yaml; results/search.md has mean and standard deviation of
# each. Finished runs are skipped, a stopped one goes on.
# Flags: those of `python -m utils.plan --help`, such as --dry_run; others go to train_router_mdeberta.py.
# Variables: RUNS and RESULTS, folders; with other settings they must be folders of their own.
set -euo pipefail
cd "$(dirname "$0")/.."

RUNS="${RUNS:-runs/search/minilm}"
RESULTS="${RESULTS:-results}"

source train_scripts/env.sh
plan=(python -m utils.plan --plan train_scripts/plans/search.yaml --runs "$RUNS" "$@")
if [[ " $* " == *" --dry_run "* ]]; then exec "${plan[@]}"; fi
python -m utils.download
"${plan[@]}"
python -m utils.report --search "$RUNS" --results "$RESULTS"
