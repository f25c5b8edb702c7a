#!/usr/bin/env bash
# What the departures of the released code (the README's rows 1 to 7) and lambda are worth: paired differences on the same seeds.
#   bash train_scripts/fidelity.sh             about 40 minutes on 2 cores, 6 of them for each of SEEDS_LAYERS
# All seven rows, rows 1, 3 and 7 alone, and lambda = 0, with the frozen encoder; row 2 (dropout) needs layers that train.
# results/tables.md has the differences.
set -euo pipefail
cd "$(dirname "$0")/.."

SEEDS="${SEEDS:-1 2 3 4 5}"
SEEDS_LAYERS="${SEEDS_LAYERS:-1 2 3}"
RESULTS="${RESULTS:-results}"
export COLLECT=0 ENCODER="${ENCODER:-minilm}"
unset RUNS LABEL
source train_scripts/overrides.sh
if [[ $(($# + ${#overrides[@]})) -gt 0 && "$RESULTS" == results ]]; then
  echo "error: with other settings the rows of results/ would no longer be those recipes; give RESULTS a folder of its own" >&2
  exit 2
fi

for fidelity in paper upstream 1 3 7; do
  RECIPE=frozen FIDELITY="$fidelity" SEEDS="$SEEDS" bash train_scripts/router_train_minilm.sh "$@"
done
RECIPE=frozen LABEL=frozen-lambda0 SEEDS="$SEEDS" bash train_scripts/router_train_minilm.sh --cluster_loss_weight 0 "$@"
RECIPE=tuned LABEL=tuned-lambda0 SEEDS="$SEEDS" bash train_scripts/router_train_minilm.sh --cluster_loss_weight 0 "$@"
for fidelity in paper 2; do
  RECIPE=layers FIDELITY="$fidelity" SEEDS="$SEEDS_LAYERS" bash train_scripts/router_train_minilm.sh "$@"
done
source train_scripts/env.sh
python -m utils.report "runs/${ENCODER##*/}_frozen" "runs/${ENCODER##*/}_frozen-lambda0" "runs/${ENCODER##*/}_tuned-lambda0" "runs/${ENCODER##*/}_layers" --results "$RESULTS"
