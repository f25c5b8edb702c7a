#!/usr/bin/env bash
# All tests, on a CPU and without a network:  bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
. train_scripts/env.sh

export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
exec python -m pytest -q "$@"
