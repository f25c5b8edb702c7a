#!/usr/bin/env bash
# RouterDC with MiniLM, which installs from PyPI: no model hub, on a CPU or a GPU. Five seeds of one recipe.
#   bash train_scripts/router_train_minilm.sh                    "tuned": chosen on validation (search_minilm.sh)
#   RECIPE=paper SEEDS=1 bash train_scripts/router_train_minilm.sh     the paper's settings, all layers trained
# Recipes, with what one seed takes on 2 cores:
#   tuned         frozen encoder and a linear head; targets averaged over the rows of a task     under a minute
#   tuned-layers  the same targets, the last two encoder layers trained                          about 4 minutes
#   tuned-all     the same targets, all layers trained                                           about 10 minutes, estimated (35 on one busy core)
#   denoised      as tuned, but how far rows are pooled is estimated for each task (utils/denoise.py) under a minute
#   denoised-layers  the same targets, the last two encoder layers trained                       about 4 minutes
#   frozen        frozen encoder and a linear head, else the paper's settings                    under a minute
#   layers        the last two encoder layers trained, else the paper's settings, 100 steps      about 3 minutes
#   paper         all layers, the paper's settings; dropout off, which the paper leaves open     41 minutes
# The first run of tuned, frozen or layers adds 2 to 4 minutes, in which what does not train is computed once.
# Finished seeds are skipped, a stopped one goes on. A variable of overrides.sh (TRAINING_STEPS=200) or a further flag of train_router_mdeberta.py
# changes one setting; then a LABEL names the row in results/.
set -euo pipefail
cd "$(dirname "$0")/.."

RECIPE="${RECIPE:-tuned}"
LABEL="${LABEL:-$RECIPE}"
SEEDS="${SEEDS:-1 2 3 4 5}"
ENCODER="${ENCODER:-minilm}"
DEVICE="${DEVICE:-auto}"
PRECISION="${PRECISION:-auto}"
FIDELITY="${FIDELITY:-paper}"
RUNS="${RUNS:-runs/${ENCODER##*/}_$LABEL/$FIDELITY}"

source train_scripts/recipes.sh
source train_scripts/overrides.sh
set -- ${overrides[@]+"${overrides[@]}"} "$@"

if [[ $# -gt 0 && "$LABEL" == "$RECIPE" && "${COLLECT:-1}" == 1 ]]; then
  echo "error: with other settings ($*) this is another recipe; name its row in results/, such as LABEL=$RECIPE-mine, or COLLECT=0" >&2
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
    "${flags[@]}" \
    --seed "$seed" \
    --save_path "$RUNS/seed_$seed" \
    "$@"
done
if [[ "${COLLECT:-1}" == 1 ]]; then python -m utils.report "$RUNS"; fi
