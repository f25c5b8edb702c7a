#!/usr/bin/env bash
# All figures into results/figures/, as .png and .pdf, drawn from results/ and the runs of ablations.sh and
# baselines.sh.
#   bash train_scripts/figures.sh                   about 2 minutes
#   bash train_scripts/figures.sh --results DIR     the flags of `python -m utils.report.figures all`
# A figure whose inputs are missing says which command makes them; the others are drawn, and the script ends with
# status 2.
set -euo pipefail
cd "$(dirname "$0")/.."

source train_scripts/env.sh
python -m utils.report.figures all "$@"
