#!/usr/bin/env bash
# What the released code's behaviours (the README's rows 1 to 7) and lambda are worth: differences on the same seeds.
#   bash train_scripts/fidelity.sh                          41 runs, about 40 minutes on 2 cores
#   bash train_scripts/fidelity.sh --only minilm_frozen/paper minilm_frozen/upstream --seeds 1 2
# The runs are those of train_scripts/plans/fidelity.yaml; results/tables.md has the differences.
# Finished runs are skipped, a stopped one goes on.
# Flags: those of `python -m utils.plan --help`, such as --dry_run; others go to train_router_mdeberta.py. With other
# settings, --runs and RESULTS must be folders of their own.
# Variable: RESULTS, the folder with the results.
set -euo pipefail
cd "$(dirname "$0")/.."

source train_scripts/env.sh
if [[ " $* " != *" --dry_run "* ]]; then python -m utils.download; fi
python -m utils.plan --plan train_scripts/plans/fidelity.yaml --collect "${RESULTS:-results}" "$@"
