#!/usr/bin/env bash
# The paper's main result: RouterDC with mDeBERTaV3-base at the paper's settings, five seeds.
#   bash train_scripts/router_train.sh
# Needs a GPU and the Hugging Face hub (or ENCODER=/folder/with/mdeberta-v3-base).
# Finished seeds are skipped, a stopped one goes on. Further flags go to train_router_mdeberta.py:
#   SEEDS="1 2" FIDELITY=upstream bash train_scripts/router_train.sh
set -euo pipefail
cd "$(dirname "$0")/.."

ENCODER="${ENCODER:-microsoft/mdeberta-v3-base}"
RECIPE="${RECIPE:-paper}"
SEEDS="${SEEDS:-1 2 3 4 5}"
DEVICE="${DEVICE:-cuda}"
PRECISION="${PRECISION:-auto}"
BATCH_SIZE="${BATCH_SIZE:-64}"
TRAINING_STEPS="${TRAINING_STEPS:-1000}"
EVAL_STEPS="${EVAL_STEPS:-50}"
LEARNING_RATE="${LEARNING_RATE:-5e-5}"
WEIGHT_DECAY="${WEIGHT_DECAY:-0.01}"
TOP_K="${TOP_K:-3}"
LAST_K="${LAST_K:-3}"
H="${H:-3}"
TEMPERATURE="${TEMPERATURE:-1}"
CLUSTER_LOSS_WEIGHT="${CLUSTER_LOSS_WEIGHT:-1}"
SAMPLE_LOSS_WEIGHT="${SAMPLE_LOSS_WEIGHT:-0}"
SIMILARITY="${SIMILARITY:-cos}"
FIDELITY="${FIDELITY:-paper}"
VALIDATION_FRACTION="${VALIDATION_FRACTION:-0.1}"
RUNS="${RUNS:-runs/mdeberta_$RECIPE/$FIDELITY}"

source train_scripts/env.sh
python -m utils.download
for seed in $SEEDS; do
  python train_router_mdeberta.py \
    --encoder "$ENCODER" \
    --recipe "$RECIPE" \
    --device "$DEVICE" \
    --precision "$PRECISION" \
    --batch_size "$BATCH_SIZE" \
    --training_steps "$TRAINING_STEPS" \
    --eval_steps "$EVAL_STEPS" \
    --learning_rate "$LEARNING_RATE" \
    --weight_decay "$WEIGHT_DECAY" \
    --top_k "$TOP_K" \
    --last_k "$LAST_K" \
    --H "$H" \
    --temperature "$TEMPERATURE" \
    --cluster_loss_weight "$CLUSTER_LOSS_WEIGHT" \
    --sample_loss_weight "$SAMPLE_LOSS_WEIGHT" \
    --similarity_function "$SIMILARITY" \
    --fidelity "$FIDELITY" \
    --validation_fraction "$VALIDATION_FRACTION" \
    --seed "$seed" \
    --save_path "$RUNS/seed_$seed" \
    "$@"
done
python -m utils.report "$RUNS"
