#!/usr/bin/env bash
# All figures into results/figures/, drawn from results/ and the runs of ablations.sh and router_train_minilm.sh.
#   bash train_scripts/figures.sh                   about 2 minutes; RESULTS and ABLATIONS name other folders
# A figure whose inputs are missing says which command makes them; the others are drawn, and the script ends with status 2.
set -euo pipefail
cd "$(dirname "$0")/.."

RESULTS="${RESULTS:-results}"
ABLATIONS="${ABLATIONS:-runs/ablations/minilm_frozen}"
TUNED="${TUNED:-runs/minilm_tuned-layers/paper}"
DEVICE="${DEVICE:-auto}"
FIGURES="$RESULTS/figures"
recipe=(--results "$RESULTS" --recipe "${ABLATIONS##*/}")
missing=0

draw() { # draw NAME FIGURE FLAGS...
  python -m utils.report.figures "$2" --output "$FIGURES/$1.png" "${@:3}" || missing=2
}

source train_scripts/env.sh
draw overview overview --results "$RESULTS"
draw settings settings "${recipe[@]}"
draw learning_rate_rows_llms settings "${recipe[@]}" --settings learning_rate rows LLMs
draw lost_llm lost "${recipe[@]}"
draw tsne tsne --with_loss "$ABLATIONS/base/seed_1" --without_loss "$ABLATIONS/lambda=0/seed_1" --device "$DEVICE"
draw llm_embeddings embeddings --ckpt "$ABLATIONS/base/seed_1"
draw curves curves --runs "$ABLATIONS/base" "$ABLATIONS/lambda=0"
draw shares shares --runs "$ABLATIONS/base"
draw shares_tuned shares --runs "$TUNED"
draw cost cost --results "$RESULTS"
draw ceiling ceiling --results "$RESULTS"
draw learning learning --results "$RESULTS"
exit "$missing"
