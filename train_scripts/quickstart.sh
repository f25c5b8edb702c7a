#!/usr/bin/env bash
# From a fresh clone to a trained router: fetch the released data, train RouterDC with a frozen MiniLM, print Tables 1 and 2
# beside the paper's, evaluate the saved checkpoint again.
#   bash train_scripts/quickstart.sh           about 10 minutes on 2 cores, most of it installation; again: seconds
# No GPU and no model hub needed. Without a network, ROUTERDC_MIRROR names a folder that holds the released data.
set -euo pipefail
cd "$(dirname "$0")/.."

SEED="${SEED:-1}"
SAVE_PATH="${SAVE_PATH:-runs/quickstart}"

COLLECT=0 RECIPE="${RECIPE:-tuned}" SEEDS="$SEED" RUNS="$SAVE_PATH" bash train_scripts/router_train_minilm.sh "$@"
echo
echo "Evaluating the saved checkpoint on its own (the same tables, to the digit):"
source train_scripts/env.sh
python evaluation_router.py --ckpt "$SAVE_PATH/seed_$SEED"
