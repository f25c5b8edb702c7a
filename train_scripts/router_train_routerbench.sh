#!/usr/bin/env bash
# RouterBench: RouterDC trained on score - cost_rate * cost at several cost rates, and its accuracy / cost curve against kNN, MLP and the single LLMs.
#   bash train_scripts/router_train_routerbench.sh        30 runs: 27 to 40 minutes on one busy core, 9 of them for
#                                                         embedding every query once
# K+ = K- = 4 and prompts cut to 1400 characters, as the variant has it; a frozen MiniLM and a linear head.
# Makes results/routerbench.md, .json, .png.
#   TASKS="arc_challenge gsm8k hellaswag mbpp mmlu winograde"   all six tasks; by default the three whose files are verified to the byte
#   DATA=DIR                     a folder with routerbench_cluster/ and routerbench_zs/ of your own: nothing is downloaded
#   RECIPE=tuned                 K+ = 1 against all others and targets moved to the mean of their task, which does better on validation rows;
#                                makes results/routerbench_tuned/
#   KEEP_CHARACTERS=first        keep the first 1400 characters of a prompt, as the released code does, not the last:
#                                all of ARC's are then one text. Makes results/routerbench_first/, with RECIPE=tuned
#                                results/routerbench_tuned_first/; its page compares with the last ones, if there
# A cost rate is what a dollar costs in score (right is 1, wrong 0): at 100, an answer for 0.5 cents must be right 50 points more often than a free one.
# Finished runs are skipped, a stopped one goes on. Further flags go to train_router_mdeberta.py:
#   SEEDS=1 RUNS=runs/mine RESULTS=runs/mine bash train_scripts/router_train_routerbench.sh --training_steps 300
set -euo pipefail
cd "$(dirname "$0")/.."

TASKS="${TASKS:-arc_challenge mbpp winograde}"
COST_RATES="${COST_RATES:-0 10 30 100 300 1000}"
SEEDS="${SEEDS:-1 2 3 4 5}"
ENCODER="${ENCODER:-minilm}"
DEVICE="${DEVICE:-auto}"
PRECISION="${PRECISION:-auto}"
LEARNING_RATE="${LEARNING_RATE:-1e-3}"
DATA="${DATA:-datasets}"
RECIPE="${RECIPE:-routerbench}"
case "$RECIPE" in
  routerbench) recipe=() name="" ;;
  tuned) recipe=(--top_k 1 --last_k 10 --negative_below 2 --temperature 0.2 --target_shrinkage 0.9) name=_tuned ;;
  *) echo "error: RECIPE is '$RECIPE'; it must be routerbench or tuned" >&2; exit 2 ;;
esac
KEEP_CHARACTERS="${KEEP_CHARACTERS:-last}"
against=()
case "$KEEP_CHARACTERS" in
  last) ;;
  first)
    last="results${name:+/routerbench$name}/routerbench.json"
    if [[ -z "${RUNS:-}${RESULTS:-}" && -f "$last" ]]; then against=(--against "$last"); fi
    name+=_first
    ;;
  *) echo "error: KEEP_CHARACTERS is '$KEEP_CHARACTERS'; it must be last or first" >&2; exit 2 ;;
esac
RUNS="${RUNS:-runs/${ENCODER##*/}_routerbench$name}"
RESULTS="${RESULTS:-results${name:+/routerbench$name}}"

files=() train=() test=()
for task in $TASKS; do
  files+=("routerbench_cluster/${task}_train.csv" "routerbench_zs/${task}_test.csv")
  train+=("$DATA/routerbench_cluster/${task}_train.csv")
  test+=("$DATA/routerbench_zs/${task}_test.csv")
done

source train_scripts/env.sh
if [[ "$DATA" == datasets ]]; then python -m utils.download "${files[@]}"; fi
for rate in $COST_RATES; do
  for seed in $SEEDS; do
    python train_router_mdeberta.py \
      --dataset routerbench \
      --keep_characters "$KEEP_CHARACTERS" \
      --data_paths "${train[@]}" \
      --test_data_paths "${test[@]}" \
      --cost_rate "$rate" \
      --encoder "$ENCODER" \
      --device "$DEVICE" \
      --precision "$PRECISION" \
      --freeze_encoder \
      --learning_rate "$LEARNING_RATE" \
      --recipe "routerbench$name" \
      ${recipe[@]+"${recipe[@]}"} \
      --seed "$seed" \
      --save_path "$RUNS/rate_$rate/seed_$seed" \
      "$@"
  done
done
python -m utils.report.routerbench "$RUNS" \
  --output "$RESULTS" \
  --device "$DEVICE" \
  --precision "$PRECISION" \
  ${against[@]+"${against[@]}"}
