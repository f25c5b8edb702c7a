#!/usr/bin/env bash
# What the released code's behaviours (the README's rows 1 to 7) and lambda are worth: differences on the same seeds.
#   bash train_scripts/fidelity.sh             about 30 minutes on 2 cores
# The runs are train_scripts/plans/fidelity.yaml; results/tables.md has the differences.
# --only, --seeds and --dry_run as in ablations.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

source train_scripts/env.sh
python -m utils.download
python -m utils.plan --plan train_scripts/plans/fidelity.yaml --collect "${RESULTS:-results}" "$@"
