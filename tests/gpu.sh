#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under 8 minutes; without one it says so and ends well:
#   bash tests/gpu.sh [--only NAME ...]      figures with the device's name: results/gpu.json, results/gpu.md
#   DEVICE=cpu bash tests/gpu.sh             the same checks in small, as far as a CPU can do them
set -euo pipefail
cd "$(dirname "$0")/.."
. train_scripts/env.sh

export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 PYTHONPATH=.:tests
exec python tests/gpu/run.py --device "${DEVICE:-cuda}" --output "${OUTPUT:-results/gpu.json}" "$@"
