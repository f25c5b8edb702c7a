#!/usr/bin/env bash
# Score LLMs on a Ray cluster: `ray job submit` for each cell (one LLM, one group of tasks) of score.sh, some at a time.
#   RAY_API_SERVER_ADDRESS=http://HEAD:8265 JOBS=8 bash eval_scripts/score_ray.sh      all cells
#   CELLS="17 30" bash eval_scripts/score_ray.sh       some; bash eval_scripts/score.sh --list numbers them
#   DRY_RUN=1 bash eval_scripts/score_ray.sh           print what would be submitted
#
# We have no cluster: nothing was ever submitted. Tested are the commands, with a stand-in for ray.
#
#   JOBS        cells at a time: no more than the cluster has GPUs for, since Ray gives up a job that has waited long
#   CELLS       numbers of cells, all by default; those that are done end at once
#   TP, DP      GPUs per copy, and copies. A cell of one copy reserves TP GPUs for its job. For more copies vllm starts
#               Ray tasks that reserve TP GPUs each, so the job itself reserves none. Groups that sample run one copy
# All other settings of score.sh go along, but no secret does, since Ray shows a job's environment: log in to the hub on
# the nodes (HF_HOME). The checkout must have the same path on all nodes, and be, as OUT, on a file system that all see.
#
# This command waits for the jobs, and its exit code is not 0 if one failed. If it is stopped, the jobs that run go on
# (`ray job list`, `ray job stop`); started again it does what is left.
set -euo pipefail
cd "$(dirname "$0")/.."
source eval_scripts/common.sh

JOBS="${JOBS:-1}"
CELLS="${CELLS:-$(bash eval_scripts/score.sh --list | cut -f 1)}"
TP="${TP:-1}"
DRY_RUN="${DRY_RUN:-0}"
PASSED_ON=(
  MODELS TASKS OUT BACKEND LM_EVAL MODEL_ARGS BATCH_SIZE DEVICE BASE_URL TP DP LIMIT INCLUDE REDO LOCK
  HF_HOME HF_HUB_OFFLINE HF_DATASETS_OFFLINE ROUTERDC_NO_VENV
)
[[ "$JOBS" =~ ^[1-9][0-9]*$ ]] || fail "JOBS is '$JOBS'; it must be a number of cells at a time, 1 or more"
[[ "$DRY_RUN" == 1 ]] || command -v ray > /dev/null || fail "there is no ray here: pip install 'ray[default]'"

environment() {  # CELL: the job's environment as JSON, {"env_vars": {name: value}}
  local name pairs=("CELL=$1")
  for name in "${PASSED_ON[@]}"; do
    if [[ -n "${!name:-}" ]]; then pairs+=("$name=${!name}"); fi
  done
  local code='import json, sys; print(json.dumps({"env_vars": dict(pair.split("=", 1) for pair in sys.argv[1:])}))'
  python3 -c "$code" "${pairs[@]}"
}

submit() {  # CELL, flags of the harness
  local cell="$1" gpus="$TP" line
  line="$(CELL="$cell" DRY_RUN=1 bash eval_scripts/score.sh "${@:2}")"
  if [[ "$line" == "done already"* ]]; then
    echo "$line"
    return
  fi
  if [[ "$line" == *data_parallel_size=* && "$line" != *data_parallel_size=1,* ]]; then gpus=0; fi
  local command=(
    ray job submit
    --entrypoint-num-gpus "$gpus"
    --runtime-env-json "$(environment "$cell")"
    -- bash "$PWD/eval_scripts/score.sh" "${@:2}"
  )
  if [[ "$DRY_RUN" == 1 ]]; then shown "${command[@]}"; else "${command[@]}"; fi
}

failed=()
running=()  # process ids, and beside them their cells
cells=()
wait_for_first() {
  wait "${running[0]}" || failed+=("${cells[0]}")
  running=("${running[@]:1}") cells=("${cells[@]:1}")
}
for cell in $CELLS; do
  if [[ "${#running[@]}" -ge "$JOBS" ]]; then wait_for_first; fi
  submit "$cell" "$@" &
  running+=("$!") cells+=("$cell")
done
while [[ "${#running[@]}" -gt 0 ]]; do wait_for_first; done
if [[ ${#failed[@]} -gt 0 ]]; then
  echo "failed: cells ${failed[*]}; see ray job logs" >&2
  exit 1
fi
