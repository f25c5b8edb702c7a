#!/usr/bin/env bash
# The paper's settings in full, with all layers of MiniLM trained: what a reproduction is judged by.
#   bash train_scripts/paper_settings.sh                              20 runs of an hour on one core, two at a time
#   bash train_scripts/paper_settings.sh --only minilm_paper/paper --seeds 1
# The runs are those of train_scripts/plans/paper_settings.yaml: the paper's losses, lambda = 0, the baselines' losses,
# the released code's behaviours, dropout, averaged targets. It adds them to results/tables.md;
# `python -m utils.report --compare FOLDERS` gives intervals and differences.
# Finished runs are skipped, a stopped one goes on.
# Flags: those of `python -m utils.plan --help`, such as --dry_run; others go to train_router_mdeberta.py. With other
# settings, --runs and RESULTS must be folders of their own.
# Variable: RESULTS, the folder with the results.
set -euo pipefail
cd "$(dirname "$0")/.."

source train_scripts/env.sh
if [[ " $* " != *" --dry_run "* ]]; then python -m utils.download; fi
python -m utils.plan --plan train_scripts/plans/paper_settings.yaml --collect "${RESULTS:-results}" "$@"
