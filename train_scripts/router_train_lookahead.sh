#!/usr/bin/env bash
# A second real benchmark, with answers: six LLMs on GSM8K, MATH, HumanEval, MBPP (Lookahead Routing, arXiv 2510.19506).
#   bash train_scripts/router_train_lookahead.sh
# Needs no GPU and no model hub: a frozen MiniLM. It downloads and imports the data, with a seeded split by halves into
# training and test rows; what it makes is in results/lookahead. Steps, of which STEPS chooses some:
#   data           download and import
#   ceiling        what can be learned of each task at all: ceiling.md and .json
#   routers        every router, baseline and control, both recipes of baselines.sh: comparison.md and .json
#   voting         the majority of the real final answers, on GSM8K and MATH; programs cannot be voted on
#   leave_one_out  trained on three tasks, tested on the fourth
#   math           every router trained on all 2500 training rows of MATH alone, where it has most to learn from
#   pages          within_tasks.md and leave_one_out.md, from the runs
# Finished runs are skipped, a stopped one goes on. `tuned` is the recipe that was chosen on the paper's data; nothing
# is chosen here.
# Flags: as those of baselines.sh, such as --seeds 1 2 or --max_length 128; then RUNS and RESULTS must be folders of
# their own.
# Variables: STEPS, ENCODER, RESAMPLES, RUNS, RESULTS; DATA and ANSWERS, the folders of the imported data; and ROUTERS,
# LOSSES and ON_TRAINED of baselines.sh, where no router runs on trained embeddings by default.
set -euo pipefail
cd "$(dirname "$0")/.."

STEPS="${STEPS:-data ceiling routers voting leave_one_out math pages}"
export ENCODER="${ENCODER:-minilm}" RESAMPLES="${RESAMPLES:-10000}" ON_TRAINED="${ON_TRAINED-}"
DATA="${DATA:-datasets/lookahead_data}"
ANSWERS="${ANSWERS:-datasets/lookahead_answers}"
RUNS="${RUNS:-runs/lookahead}"
RESULTS="${RESULTS:-results/lookahead}"
tasks=(math gsm8k humaneval mbpp)
if [[ $# -gt 0 && "$RESULTS" == results/lookahead ]]; then
  echo "error: with other settings ($*) this is not what results/lookahead says; use other RESULTS and RUNS folders" >&2
  exit 2
fi

source train_scripts/env.sh
export ROUTERDC_NO_VENV=1 # the environment is active now; the scripts below need not look for it again

name_data() { # name_data FOLDER "TRAINING TASKS" "TEST TASKS": `data` gets the arguments that name their files
  local train=() test=() task
  for task in $2; do train+=("$1/${task}_train.json"); done
  for task in $3; do test+=("$DATA/${task}_test.json"); done
  data=(--data_paths "${train[@]}" --data_type multi_attempt --test_data_paths "${test[@]}" --final_eval_data_paths)
}

cluster() { # cluster NAME TASKS...: $RUNS/clustered/NAME gets their training files with cluster ids
  local folder="$RUNS/clustered/$1" files=() task
  shift
  for task in "$@"; do files+=("$DATA/${task}_train.json"); done
  if [[ -f "$folder/${!#}_train.json" ]]; then return; fi
  python -m utils.clustering --encoder "$ENCODER" --output "$folder" --data_paths "${files[@]}"
}

train() { # train "RECIPES" RUNS RESULTS FLAGS...: baselines.sh on `data`, one recipe after the other
  local recipes="$1" recipe
  export RUNS="$2" RESULTS="$3"
  shift 3
  for recipe in $recipes; do
    RECIPES="$recipe" AGAINST="$recipe" bash train_scripts/baselines.sh "${data[@]}" "$@"
  done
}

for step in $STEPS; do
  case "$step" in
    data)
      python -m utils.download
      python -m utils.download --datasets lookahead
      if [[ ! -d "$DATA" ]]; then
        python -m utils.importers lookahead datasets/lookahead/test \
          --output "$DATA" \
          --answers "$ANSWERS" \
          --test_fraction 0.5 \
          --seed 1
      fi
      ;;
    ceiling)
      files=("${tasks[@]/%/_test.json}")
      python -m utils.ceiling \
        --encoder "$ENCODER" \
        --seeds 1 2 3 \
        --curve_seeds 1 2 \
        --test_data_paths "${files[@]/#/$DATA/}" \
        --test_data_type multi_attempt \
        --resamples "$RESAMPLES" \
        --results "$RESULTS"
      for figure in ceiling learning; do
        python -m utils.report.figures "$figure" --results "$RESULTS" --output "$RESULTS/figures/$figure.png"
      done
      ;;
    routers)
      cluster all "${tasks[@]}"
      name_data "$RUNS/clustered/all" "${tasks[*]}" "${tasks[*]}"
      (train "frozen tuned" "$RUNS/routers" "$RESULTS" "$@")
      ;;
    voting)
      name_data "$DATA" "math gsm8k" "math gsm8k"
      python -m utils.baselines --routers voting --answers "$ANSWERS" --save_path "$RUNS/voting" "${data[@]}"
      ;;
    leave_one_out)
      for left in "${tasks[@]}"; do
        others=()
        for task in "${tasks[@]}"; do if [[ "$task" != "$left" ]]; then others+=("$task"); fi; done
        cluster "without_$left" "${others[@]}"
        name_data "$RUNS/clustered/without_$left" "${others[*]}" "$left"
        folder="$RUNS/leave_one_out/$left"
        (LOSSES=routerdc ROUTERS="knn ridge kmeans" train "frozen tuned" "$folder" "$folder" "$@")
      done
      ;;
    math)
      cluster all "${tasks[@]}"
      name_data "$RUNS/clustered/all" math math
      (train frozen "$RUNS/math" "$RUNS/math" --training_samples_per_dataset 0 "$@")
      ;;
    pages)
      pages=(--resamples "$RESAMPLES" --results "$RESULTS")
      python -m utils.report.lookahead within "$RUNS/routers" "$RUNS/voting" --alone "$RUNS/math" "${pages[@]}"
      python -m utils.report.lookahead leave_one_out "$RUNS/leave_one_out" "${pages[@]}"
      ;;
    *)
      echo "error: STEPS has '$step'; it must be of: data ceiling routers voting leave_one_out math pages" >&2
      exit 2
      ;;
  esac
done
