#!/usr/bin/env bash
# RouterBench: RouterDC trained on score - cost_rate * cost at several cost rates, and its accuracy / cost curve
# against kNN, MLP and the single LLMs.
#   bash train_scripts/router_train_routerbench.sh        30 runs: 27 to 40 minutes on one busy core, 9 of them for
#                                                         embedding every query once
# K+ = K- = 4 and prompts cut to 1400 characters, as the released code has it; a frozen MiniLM and a linear head.
# Makes results/routerbench.md, .json, .png.
#   TASKS="arc_challenge gsm8k hellaswag mbpp mmlu winograde"   all six tasks; by default the three whose files are
#                                verified to the byte
#   DATA=DIR                     a folder with routerbench_cluster/ and routerbench_zs/ of your own; nothing is
# downloaded
#   RECIPE=routerbench_tuned     K+ = 1 against all others and targets moved to the mean of their task, which does
#                                better on validation rows. Makes results/routerbench_tuned/
#   KEEP_CHARACTERS=first        keep the first 1400 characters of a prompt, as the released code does, not the last:
#                                all of ARC's are then one text. Makes results/routerbench_first/, or
#                                results/routerbench_tuned_first/; its page compares with the last ones, if there
# A cost rate is what a dollar costs in score (right is 1, wrong 0): at 100, an answer for 0.5 cents must be right
# 50 points more often than a free one.
# Finished runs are skipped, a stopped one goes on. Further flags go to train_router_mdeberta.py:
#   RUNS=runs/mine RESULTS=runs/mine bash train_scripts/router_train_routerbench.sh --seeds 1 --training_steps 300
set -euo pipefail
cd "$(dirname "$0")/.."

TASKS="${TASKS:-arc_challenge mbpp winograde}"
COST_RATES="${COST_RATES:-0 10 30 100 300 1000}"
DATA="${DATA:-datasets}"
RECIPE="${RECIPE:-routerbench}"
KEEP_CHARACTERS="${KEEP_CHARACTERS:-last}"
label="$RECIPE" against=()
case "$KEEP_CHARACTERS" in
  last) ;;
  first)
    label+=_first
    last=results/routerbench.json
    if [[ "$RECIPE" != routerbench ]]; then last="results/$RECIPE/routerbench.json"; fi
    if [[ -z "${RUNS:-}${RESULTS:-}" && -f "$last" ]]; then against=(--against "$last"); fi
    ;;
  *) echo "error: KEEP_CHARACTERS is '$KEEP_CHARACTERS'; it must be last or first" >&2; exit 2 ;;
esac
RUNS="${RUNS:-runs/minilm_$label}"
if [[ "$label" == routerbench ]]; then RESULTS="${RESULTS:-results}"; else RESULTS="${RESULTS:-results/$label}"; fi

files=() train=() test=()
for task in $TASKS; do
  files+=("routerbench_cluster/${task}_train.csv" "routerbench_zs/${task}_test.csv")
  train+=("$DATA/routerbench_cluster/${task}_train.csv")
  test+=("$DATA/routerbench_zs/${task}_test.csv")
done

source train_scripts/env.sh
if [[ "$DATA" == datasets ]]; then python -m utils.download "${files[@]}"; fi
for rate in $COST_RATES; do
  python -m utils.plan --recipe "$RECIPE" --label "$label" --cost_rate "$rate" --keep_characters "$KEEP_CHARACTERS" \
    --data_paths "${train[@]}" --test_data_paths "${test[@]}" --name "rate_$rate" --runs "$RUNS" "$@"
done
python -m utils.report.routerbench "$RUNS" --output "$RESULTS" ${against[@]+"${against[@]}"}
