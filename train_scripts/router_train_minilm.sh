#!/usr/bin/env bash
# RouterDC with MiniLM, which installs from PyPI: no model hub, on a CPU or a GPU. Five seeds of one recipe.
#   bash train_scripts/router_train_minilm.sh                                  "tuned": chosen on validation rows
#   bash train_scripts/router_train_minilm.sh --recipe paper --seeds 1         the paper's settings, all layers
#   bash train_scripts/router_train_minilm.sh --recipe frozen --H 5 --label frozen-H5
# Recipes are the files of train_scripts/recipes/. One seed takes on 2 cores: tuned, denoised and frozen under a minute,
# tuned-layers, denoised-layers and layers 3 to 4 minutes, tuned-all 10, paper 41. The first run adds 2 to 4 minutes, in
# which what does not train is computed once. Finished seeds are skipped, a stopped one goes on.
# Flags: those of `python -m utils.plan --help`, such as --dry_run; others go to train_router_mdeberta.py. With other
# settings, --label names the row in results/.
# Variable: RESULTS, the folder with the results.
set -euo pipefail
cd "$(dirname "$0")/.."

recipe=(--recipe tuned)
if [[ " $* " == *" --recipe"[=\ ]* || " $* " == *" --config"[=\ ]* ]]; then recipe=(); fi

source train_scripts/env.sh
if [[ " $* " != *" --dry_run "* ]]; then python -m utils.download; fi
python -m utils.plan ${recipe[@]+"${recipe[@]}"} --collect "${RESULTS:-results}" --encoder minilm "$@"
