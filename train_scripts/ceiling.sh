#!/usr/bin/env bash
# The learnable ceiling: what of the oracle's head-room the queries' text gives away, in every test file.
#   bash train_scripts/ceiling.sh     makes results/ceiling.json, ceiling.md, figures/ceiling.png, figures/learning.png
# Half an hour on half a core, a quarter of an hour more for the fine-tuned encoder; a stopped run goes on.
# RouterBench: the three files whose bytes are verified; TASKS names others.
# FINE_TUNED names the tasks for which an encoder is fine-tuned, too; '' is none.
set -euo pipefail
cd "$(dirname "$0")/.."

TASKS="${TASKS:-arc_challenge mbpp winograde}"
SEEDS="${SEEDS:-1 2 3}"
CURVE_SEEDS="${CURVE_SEEDS:-1 2}"
FINE_TUNED="${FINE_TUNED-math_prealgebra}"
ENCODER="${ENCODER:-minilm}"
DEVICE="${DEVICE:-auto}"
RESULTS="${RESULTS:-results}"

files=()
for task in $TASKS; do files+=("routerbench_zs/${task}_test.csv"); done
read -ra seeds <<< "$SEEDS"
read -ra curve_seeds <<< "$CURVE_SEEDS"
read -ra tasks <<< "$FINE_TUNED"
common=(--encoder "$ENCODER" --device "$DEVICE" --results "$RESULTS")
common+=(--seeds "${seeds[@]}" --curve_seeds "${curve_seeds[@]}")

source train_scripts/env.sh
python -m utils.download
python -m utils.download "${files[@]}"
python -m utils.ceiling "${common[@]}" ${tasks[@]+--fine_tuned "${tasks[@]}"} "$@"
python -m utils.ceiling "${common[@]}" --dataset routerbench --test_data_paths "${files[@]/#/datasets/}" "$@"
python -m utils.report.figures ceiling --results "$RESULTS" --output "$RESULTS/figures/ceiling.png"
python -m utils.report.figures learning --results "$RESULTS" --output "$RESULTS/figures/learning.png"
