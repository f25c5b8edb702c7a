#!/usr/bin/env bash
# How the MiniLM recipes were chosen: candidates compared on validation rows only, no test file is opened.
#   bash train_scripts/search_minilm.sh        170 runs of 5 to 10 s on one core; one candidate takes 4 minutes a run
# The candidates are train_scripts/plans/search.yaml. results/search.md has mean and standard deviation of each.
# --only, --seeds and --dry_run as in ablations.sh.
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
