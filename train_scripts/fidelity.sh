#!/usr/bin/env bash
# What the departures of the released code (datasets and losses alike; FIDELITY rows 1 to 6) and lambda are worth, on the same seeds.
#   bash train_scripts/fidelity.sh
# Rows 1, 3, all six and lambda = 0 with the frozen encoder, five seeds; rows 1, 2, 3 and all six with its last layer
# trained, SEEDS_LAYERS seeds (row 2, dropout, needs layers that train). Prints paired differences; results/tables.md has them.
set -euo pipefail
cd "$(dirname "$0")/.."

SEEDS="${SEEDS:-1 2 3 4 5}"
SEEDS_LAYERS="${SEEDS_LAYERS:-1 2 3}"
export COLLECT=0

for fidelity in paper upstream 1 3; do
  RECIPE=frozen FIDELITY="$fidelity" SEEDS="$SEEDS" bash train_scripts/router_train_minilm.sh "$@"
done
RECIPE=frozen LABEL=frozen-lambda0 SEEDS="$SEEDS" bash train_scripts/router_train_minilm.sh --cluster_loss_weight 0 "$@"
RECIPE=tuned LABEL=tuned-lambda0 SEEDS="$SEEDS" bash train_scripts/router_train_minilm.sh --cluster_loss_weight 0 "$@"
for fidelity in paper upstream 1 2 3; do
  RECIPE=layers FIDELITY="$fidelity" SEEDS="$SEEDS_LAYERS" bash train_scripts/router_train_minilm.sh "$@"
done
RECIPE=layers LABEL=layers-lambda0 SEEDS="$SEEDS_LAYERS" bash train_scripts/router_train_minilm.sh --cluster_loss_weight 0 "$@"
source train_scripts/env.sh
python -m utils.report runs/minilm_*
