#!/usr/bin/env bash
# One setting changed at a time from the recipe `frozen`: results/ablations.md and results/ablations.jsonl.
#   bash train_scripts/ablations.sh                                        315 runs of 5 to 10 s on one core
#   bash train_scripts/ablations.sh --dry_run                              prints the commands that are left to do
#   bash train_scripts/ablations.sh --only lambda H --seeds 1 2 3          some of the settings, on some seeds
# The runs are those of train_scripts/plans/ablations.yaml. Finished ones are skipped, a stopped one goes on.
# Flags: those of `python -m utils.plan --help`; others go to train_router_mdeberta.py, such as --device cuda.
# Variables: RUNS and RESULTS, folders; with other settings they must be folders of their own. PLAN, another plan.
set -euo pipefail
cd "$(dirname "$0")/.."

RUNS="${RUNS:-runs/ablations/minilm_frozen}"
RESULTS="${RESULTS:-results}"
PLAN="${PLAN:-train_scripts/plans/ablations.yaml}"

source train_scripts/env.sh
plan=(python -m utils.plan --plan "$PLAN" --runs "$RUNS" "$@")
if [[ " $* " == *" --dry_run "* ]]; then exec "${plan[@]}"; fi
python -m utils.download
"${plan[@]}"
python -m utils.report.ablations "$RUNS" --results "$RESULTS" --lose_llms # tests the routers without each LLM, too
