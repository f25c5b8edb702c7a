#!/usr/bin/env bash
# The paper's main result: RouterDC with mDeBERTaV3-base at the paper's settings, five seeds.
#   bash train_scripts/router_train.sh
# Needs a GPU and the Hugging Face hub (or ENCODER=/folder/with/mdeberta-v3-base).
# The paper's settings are the trainer's defaults: 1000 steps of 64 queries, learning rate 5e-5, K+ = K- = 3, H = 3, lambda = 1, cosine similarity;
# overrides.sh lists the variables that change them. Finished seeds are skipped, a stopped one goes on. Further flags go to train_router_mdeberta.py:
#   LABEL=paper-H5 H=5 SEEDS="1 2" bash train_scripts/router_train.sh
set -euo pipefail
cd "$(dirname "$0")/.."

ENCODER="${ENCODER:-microsoft/mdeberta-v3-base}"
LABEL="${LABEL:-paper}"
SEEDS="${SEEDS:-1 2 3 4 5}"
DEVICE="${DEVICE:-cuda}"
PRECISION="${PRECISION:-auto}"
FIDELITY="${FIDELITY:-paper}"
RUNS="${RUNS:-runs/mdeberta_$LABEL/$FIDELITY}"

source train_scripts/overrides.sh
set -- ${overrides[@]+"${overrides[@]}"} "$@"
if [[ $# -gt 0 && "$LABEL" == paper && "${COLLECT:-1}" == 1 ]]; then
  echo "error: with other settings ($*) this is not the paper's; name its row in results/, such as LABEL=mine, or COLLECT=0" >&2
  exit 2
fi

source train_scripts/env.sh
python -m utils.download
for seed in $SEEDS; do
  python train_router_mdeberta.py \
    --encoder "$ENCODER" \
    --recipe "$LABEL" \
    --device "$DEVICE" \
    --precision "$PRECISION" \
    --fidelity "$FIDELITY" \
    --seed "$seed" \
    --save_path "$RUNS/seed_$seed" \
    "$@"
done
if [[ "${COLLECT:-1}" == 1 ]]; then python -m utils.report "$RUNS"; fi
