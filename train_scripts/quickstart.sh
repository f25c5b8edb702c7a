#!/usr/bin/env bash
# From a fresh clone to a trained router: fetch the released data, train RouterDC with a frozen MiniLM, print Tables 1
# and 2 beside the paper's, evaluate the saved checkpoint again, route one query.
#   bash train_scripts/quickstart.sh           about 10 minutes on 2 cores, most of it installation; again: seconds
# No GPU and no model hub needed. Without a network, ROUTERDC_MIRROR names a folder that holds the released data.
# If that data is neither there nor reachable, the same is done with datasets/miniature, which ships: 2 minutes.
# Flags go to train_router_mdeberta.py.
# Variable: SAVE_PATH, the folder of the run.
set -euo pipefail
cd "$(dirname "$0")/.."

SAVE_PATH="${SAVE_PATH:-runs/quickstart}"

source train_scripts/env.sh
code=0
python -m utils.download || code=$?
if [[ "$code" == 0 ]]; then
  router="$SAVE_PATH/seed_1"
  query="A baker makes 12 trays of 8 rolls and sells 70 of them. How many rolls are left?"
  python train_router_mdeberta.py --recipe tuned --seed 1 --save_path "$router" "$@"
elif [[ "$code" == 3 ]]; then # the network gave no answer; wrong data, or a mirror that lacks some, is an error
  echo
  echo "NOT the paper's data: that is neither in datasets/ nor reachable (see above). This goes on with"
  echo "datasets/miniature, routing data of tiny LLMs made by this project (datasets/miniature/README.md)."
  echo "Its figures say nothing about the paper's; the steps are the same."
  router="${SAVE_PATH}_miniature/seed_1"
  query="Ada has 14 shells and finds 5 more. How many shells does Ada have now?"
  STEPS=router TRAIN=datasets/miniature TEST=datasets/miniature ROUTER="${SAVE_PATH}_miniature" SEEDS=1 \
    bash eval_scripts/miniature.sh "$@"
else
  exit "$code"
fi
echo
echo "Evaluating the saved checkpoint on its own (the same tables, to the digit):"
python evaluation_router.py --ckpt "$router"
echo
echo "Routing one query:"
python evaluation_router.py --ckpt "$router" --query "$query"
