#!/usr/bin/env bash
# RouterBench: RouterDC trained on score - cost_rate * cost at several cost rates, and its accuracy / cost curve
# against kNN, MLP and the single LLMs. Makes results/routerbench.md, .json, .png.
#   bash train_scripts/router_train_routerbench.sh        30 runs: 27 to 40 minutes on one busy core, 9 of them for
#                                                         embedding every query once
#   RUNS=runs/mine RESULTS=runs/mine bash train_scripts/router_train_routerbench.sh --seeds 1 --training_steps 300
# K+ = K- = 4 and prompts cut to 1400 characters, as the released code has it; a frozen MiniLM and a linear head.
# A cost rate is what a dollar costs in score (right is 1, wrong 0): at 100, an answer for 0.5 cents must be right
# 50 points more often than a free one. Finished runs are skipped, a stopped one goes on.
# Flags:
#   --recipe routerbench_tuned   K+ = 1 against all others and targets moved to the mean of their task, which does
#                                better on validation rows. Makes results/routerbench_tuned/
#   --keep_characters first      keep the first 1400 characters of a prompt, as the released code does, not the last:
#                                all of ARC's are then one text. Makes results/routerbench_first/, or
#                                results/routerbench_tuned_first/; its page compares with the last ones, if there
#   those of `python -m utils.plan --help`, such as --seeds and --dry_run; others go to train_router_mdeberta.py
# Variables:
#   TASKS="arc_challenge gsm8k hellaswag mbpp mmlu winograde"   all six tasks; by default the three whose files are
#                                verified to the byte
#   COST_RATES="0 10 30"         other cost rates
#   DATA=DIR                     a folder with routerbench_cluster/ and routerbench_zs/ of your own; nothing is
#                                downloaded
#   RUNS, RESULTS                folders; with other settings or data they should be folders of their own
set -euo pipefail
cd "$(dirname "$0")/.."

TASKS="${TASKS:-arc_challenge mbpp winograde}"
COST_RATES="${COST_RATES:-0 10 30 100 300 1000}"
DATA="${DATA:-datasets}"

recipe=routerbench keep=last dry_run=0 flags=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --recipe) recipe="${2:-}" && shift ;;
    --keep_characters) keep="${2:-}" && shift ;;
    --dry_run) dry_run=1 flags+=("$1") ;;
    *) flags+=("$1") ;;
  esac
  if [[ $# -gt 0 ]]; then shift; fi
done

label="$recipe" against=()
case "$recipe" in
  routerbench) last=results/routerbench.json ;;
  routerbench_tuned) last=results/routerbench_tuned/routerbench.json ;;
  *) echo "error: --recipe is '$recipe'; it must be routerbench or routerbench_tuned" >&2; exit 2 ;;
esac
case "$keep" in
  last) ;;
  first)
    label+=_first
    if [[ -z "${RUNS:-}${RESULTS:-}" && -f "$last" ]]; then against=(--against "$last"); fi
    ;;
  *) echo "error: --keep_characters is '$keep'; it must be last or first" >&2; exit 2 ;;
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
if [[ "$DATA" == datasets && "$dry_run" == 0 ]]; then python -m utils.download "${files[@]}"; fi
for rate in $COST_RATES; do
  python -m utils.plan --recipe "$recipe" --label "$label" --cost_rate "$rate" --keep_characters "$keep" \
    --data_paths "${train[@]}" --test_data_paths "${test[@]}" --name "rate_$rate" --runs "$RUNS" \
    ${flags[@]+"${flags[@]}"}
done
if [[ "$dry_run" == 1 ]]; then exit 0; fi
python -m utils.report.routerbench "$RUNS" --output "$RESULTS" ${against[@]+"${against[@]}"}
