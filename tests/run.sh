#!/usr/bin/env bash
# All tests, on a CPU and without a network:  bash tests/run.sh [pytest arguments]
# WORKERS processes (default 2) of one thread each; WORKERS=0 runs them in one, for a debugger.
# ROUTERDC_GATEWAY=1 tests the gateway with the real proxy of LiteLLM, too, which it installs into .cache/gateway.
set -euo pipefail
cd "$(dirname "$0")/.."
. train_scripts/env.sh

export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest -q -n "${WORKERS:-2}" --dist loadfile --no-loadscope-reorder "$@"
