#!/usr/bin/env bash
# Everything that was tried to break the code, and results/faults.md:  bash tests/faults/run.sh [kills disk ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
. train_scripts/env.sh

export PYTHONPATH=. HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
mkdir -p results/faults
if [ $# = 0 ]; then
  set -- kills disk kept checkpoints inputs logs attacks scale threads
fi
for name in "$@"; do
  python "tests/faults/$name.py" --output "results/faults/$name.json"
done
python tests/faults/page.py
