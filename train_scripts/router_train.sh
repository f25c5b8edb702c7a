#!/usr/bin/env bash
# The paper's main result: RouterDC with mDeBERTaV3-base at the paper's settings, five seeds.
#   bash train_scripts/router_train.sh
#   bash train_scripts/router_train.sh --label paper-H5 --H 5 --seeds 1 2
# Needs a GPU and the Hugging Face hub, or --encoder /folder/with/mdeberta-v3-base.
# Finished seeds are skipped, a stopped one goes on.
# Flags: those of `python -m utils.plan --help`, such as --dry_run; others go to train_router_mdeberta.py. With other
# settings, --label names the row in results/.
# Variables: RESULTS, the folder with the results; NPROC, the processes of each training, one for each GPU (default: 1);
# ACCELERATE_CONFIG, in place of NPROC a file that `accelerate config` wrote.
set -euo pipefail
cd "$(dirname "$0")/.."

source train_scripts/env.sh
if [[ " $* " != *" --dry_run "* ]]; then python -m utils.download; fi
python -m utils.plan --recipe mdeberta --device cuda --jobs 1 --threads 0 --collect "${RESULTS:-results}" \
  --processes "${NPROC:-1}" ${ACCELERATE_CONFIG:+--accelerate_config "$ACCELERATE_CONFIG"} "$@"
