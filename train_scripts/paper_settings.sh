#!/usr/bin/env bash
# The paper's settings in full, with all layers of MiniLM trained: what a reproduction is judged by.
#   bash train_scripts/paper_settings.sh                              20 runs of an hour on one core, two at a time
#   bash train_scripts/paper_settings.sh --only minilm_paper/paper --seeds 1
# The runs are train_scripts/plans/paper_settings.yaml: the paper's losses, lambda = 0, the baselines' losses, the
# released code's behaviours, dropout, averaged targets. Adds them to results/tables.md.
# `python -m utils.report --compare FOLDERS` gives intervals and differences.
set -euo pipefail
cd "$(dirname "$0")/.."

source train_scripts/env.sh
python -m utils.download
python -m utils.plan --plan train_scripts/plans/paper_settings.yaml --collect "${RESULTS:-results}" "$@"
