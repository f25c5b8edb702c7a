#!/usr/bin/env bash
# What the departures of the released code (FIDELITY rows 1 to 6) and lambda are worth: paired differences on the same seeds.
#   bash train_scripts/fidelity.sh             about 12 minutes on 2 cores, and 4 for each of SEEDS_LAYERS four times
# All six rows, rows 1 and 3 alone, and lambda = 0, with the frozen encoder; row 2 (dropout) needs layers that train.
# results/tables.md has the differences.
set -euo pipefail
cd "$(dirname "$0")/.."

SEEDS="${SEEDS:-1 2 3 4 5}"
SEEDS_LAYERS="${SEEDS_LAYERS:-1 2}"
export COLLECT=0

for fidelity in paper upstream 1 3; do
  RECIPE=frozen FIDELITY="$fidelity" SEEDS="$SEEDS" bash train_scripts/router_train_minilm.sh "$@"
done
RECIPE=frozen LABEL=frozen-lambda0 SEEDS="$SEEDS" bash train_scripts/router_train_minilm.sh --cluster_loss_weight 0 "$@"
RECIPE=tuned LABEL=tuned-lambda0 SEEDS="$SEEDS" bash train_scripts/router_train_minilm.sh --cluster_loss_weight 0 "$@"
for fidelity in paper 2; do
  RECIPE=layers FIDELITY="$fidelity" SEEDS="$SEEDS_LAYERS" bash train_scripts/router_train_minilm.sh "$@"
done
source train_scripts/env.sh
python -m utils.report runs/minilm_*
