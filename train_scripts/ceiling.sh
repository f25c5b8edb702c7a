#!/usr/bin/env bash
# The learnable ceiling: what of the oracle's head-room the queries' text gives away, in every test file.
#   bash train_scripts/ceiling.sh     makes results/ceiling.json, ceiling.md, figures/ceiling.png, figures/learning.png
# Half an hour on half a core, a quarter of an hour more for the fine-tuned encoder; a stopped run goes on.
# Flags go to `python -m utils.ceiling`, such as --device cuda.
# Variables:
#   TASKS         the tasks of RouterBench; by default the three whose files are verified to the byte
#   FINE_TUNED    the tasks for which an encoder is fine-tuned, too; '' is none
#   RESULTS       the folder with the results
set -euo pipefail
cd "$(dirname "$0")/.."

TASKS="${TASKS:-arc_challenge mbpp winograde}"
FINE_TUNED="${FINE_TUNED-math_prealgebra}"
RESULTS="${RESULTS:-results}"

files=()
for task in $TASKS; do files+=("routerbench_zs/${task}_test.csv"); done
read -ra fine_tuned <<< "$FINE_TUNED"

source train_scripts/env.sh
python -m utils.download
python -m utils.download "${files[@]}"
ceiling=(python -m utils.ceiling --results "$RESULTS" --seeds 1 2 3 --curve_seeds 1 2)
"${ceiling[@]}" ${fine_tuned[@]+--fine_tuned "${fine_tuned[@]}"} "$@"
"${ceiling[@]}" --dataset routerbench --test_data_paths "${files[@]/#/datasets/}" "$@"
for figure in ceiling learning; do
  python -m utils.report.figures "$figure" --results "$RESULTS" --output "$RESULTS/figures/$figure.png"
done
