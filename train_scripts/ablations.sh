#!/usr/bin/env bash
# One setting changed at a time from one recipe, on the same seeds: results/ablations.md and results/ablations.jsonl.
#   bash train_scripts/ablations.sh                 about 75 minutes on 2 busy cores for the frozen MiniLM
#   DRY_RUN=1 bash train_scripts/ablations.sh       prints the commands that are left to do
#   AXES="lambda H" SEEDS="1 2 3" bash train_scripts/ablations.sh      some of the settings, on some seeds
# Axes: lambda K+ K- ties columns H N learning_rate similarity encoder LLMs sample_sample rows fidelity targets lost_LLM (an LLM lost at test time).
# All variants of one seed come before the next seed. Finished runs are skipped, stopped ones go on. JOBS run at a time.
# Further flags go to train_router_mdeberta.py; with other data or flags, give RUNS and RESULTS folders of their own.
set -euo pipefail
cd "$(dirname "$0")/.."

RECIPE="${RECIPE:-frozen}"
ENCODER="${ENCODER:-minilm}"
SEEDS="${SEEDS:-1 2 3 4 5}"
AXES="${AXES:-lambda K+ K- ties columns H N learning_rate similarity encoder LLMs sample_sample rows fidelity targets lost_LLM}"
JOBS="${JOBS:-2}"
DEVICE="${DEVICE:-auto}"
PRECISION="${PRECISION:-auto}"
BASE="${ENCODER##*/}_$RECIPE"
RUNS="${RUNS:-runs/ablations/$BASE}"
RESULTS="${RESULTS:-results}"
CACHE_DIR="${CACHE_DIR:-.cache/queries}"
MAX_LENGTH="${MAX_LENGTH:-512}"

LAMBDAS="${LAMBDAS:-0 0.5 1 2 5}"
TOP_KS="${TOP_KS:-1 2 3 4 5 6}"
LAST_KS="${LAST_KS:-1 2 3 4 5 6}"
HS="${HS:-1 2 3 5 10}"
CLUSTERS="${CLUSTERS:-2 3 5 8 10 20}"                                   # N, made anew with this encoder
LEARNING_RATES="${LEARNING_RATES:-1e-4 3e-4 1e-3 3e-3 1e-2}"
ENCODERS="${ENCODERS:-minilm:first}"                                    # encoder:pooling, more where a model hub can be reached
SAMPLES="${SAMPLES:-100 250 500 1000 2000}"                             # training rows per task
FIDELITIES="${FIDELITIES:-1 2 3 4 5 6 7 upstream}"                        # rows of the README's table as released
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"                          # per run

source train_scripts/recipes.sh
source train_scripts/env.sh
if [[ -z "${LLMS:-}" ]]; then LLMS="$(python -c 'from utils.tasks import LLMS; print(*LLMS)')"; fi
if [[ -z "${TRAIN:-}" ]]; then TRAIN="$(python -c 'from utils.tasks import BY_NAME, TRAIN_ORDER; print(*(BY_NAME[name].train for name in TRAIN_ORDER))')"; fi

recipe_has() { # recipe_has FLAG DEFAULT: the value of FLAG in the recipe
  local value="$2" place
  for ((place = 0; place < ${#flags[@]}; place++)); do
    if [[ "${flags[place]}" == "$1" ]]; then value="${flags[place + 1]}"; fi
  done
  echo "$value"
}

jobs=() # folder, command, folder, command, ...
plan() { # plan NAME LABEL FLAGS...: one run, unless it has been done with this very command
  local run="$RUNS/$1/seed_$seed" command
  command="$(printf '%q ' python train_router_mdeberta.py --encoder "$ENCODER" --data_paths $TRAIN --recipe "$2" --device "$DEVICE" \
    --precision "$PRECISION" --cache_dir "$CACHE_DIR" --max_length "$MAX_LENGTH" "${flags[@]}" "${extra[@]+"${extra[@]}"}" "${@:3}" --seed "$seed" --save_path "$run")"
  if [[ ! -f "$run/results.json" || "$(cat "$run/command.txt" 2>/dev/null || true)" != "$command" ]]; then jobs+=("$run" "$command"); fi
}

vary() { # vary AXIS VALUE FLAGS...
  if [[ " $AXES " == *" $1 "* ]]; then plan "$1=$2" "$BASE $1=$2" "${@:3}"; fi
}

each() { # each AXIS FLAG DEFAULT VALUES...: FLAG at each value but that of the recipe
  local axis="$1" flag="$2" base value
  base="$(recipe_has "$2" "$3")"
  for value in "${@:4}"; do
    if [[ "$value" != "$base" ]]; then vary "$axis" "$value" "$flag" "$value"; fi
  done
}

aim() { # aim NAME TARGETS SHRINKAGE: unless the recipe has both
  if [[ "$2 $3" != "$(recipe_has --targets score) $(recipe_has --target_shrinkage 0)" ]]; then vary targets "$1" --targets "$2" --target_shrinkage "$3"; fi
}

extra=("$@")
top_k="$(recipe_has --top_k 3)" last_k="$(recipe_has --last_k 3)"
clustered() { # the training files with the clusters of N = $1
  local path
  for path in $TRAIN; do echo "$RUNS/clusters/N=$1/${path##*/}"; done
}
for seed in $SEEDS; do
  plan base "$BASE"
  each lambda --cluster_loss_weight 1 $LAMBDAS
  each K+ --top_k 3 $TOP_KS
  each K- --last_k 3 $LAST_KS
  each ties --ties expected expected random released columns
  each H --H 3 $HS
  for n in $CLUSTERS; do vary N "$n" --data_paths $(clustered "$n"); done
  each learning_rate --learning_rate 5e-5 $LEARNING_RATES
  each similarity --similarity_function cos cos inner
  for choice in $ENCODERS; do vary encoder "${choice//[\/:]/_}" --encoder "${choice%:*}" --pooling "${choice##*:}"; done
  among=() backwards=()
  for llm in $LLMS; do # added one by one; the last step is the recipe itself
    among+=("$llm")
    backwards=("$llm" ${backwards[@]+"${backwards[@]}"})
    t=${#among[@]}
    if [[ "${among[*]}" != "$LLMS" ]]; then
      vary LLMs "$t" --llms "${among[@]}" --top_k $((t < top_k ? t : top_k)) --last_k $((t < last_k ? t : last_k))
    fi
  done
  vary columns reversed --llms "${backwards[@]}"
  vary sample_sample none --cluster_loss_weight 0 --sample_loss_weight 0
  vary sample_sample task --cluster_loss_weight 0 --sample_loss_weight 1
  vary sample_sample both --cluster_loss_weight 1 --sample_loss_weight 1
  each rows --training_samples_per_dataset 1000 $SAMPLES
  vary rows all --training_samples_per_dataset 0
  each fidelity --fidelity paper $FIDELITIES
  aim score score 0
  aim gain gain 0
  aim half_task_mean score 0.5
  aim task_mean score 1
  aim gain_task_mean gain 1
  vary targets cluster_mean --targets score --target_shrinkage 1 --target_groups cluster
done

cluster_commands=()
if [[ " $AXES " == *" N "* ]]; then
  for n in $CLUSTERS; do
    missing=0
    for path in $(clustered "$n"); do if [[ ! -f "$path" ]]; then missing=1; fi; done
    if [[ "$missing" == 1 ]]; then
      cluster_commands+=("$(printf '%q ' python -m utils.clustering --data_paths $TRAIN --output "$RUNS/clusters/N=$n" --clusters "$n" --encoder "$ENCODER" --seed 1 \
        --device "$DEVICE" --precision "$PRECISION" --cache_dir "$CACHE_DIR" --max_length "$MAX_LENGTH")")
    fi
  done
fi

if [[ "${DRY_RUN:-0}" == 1 ]]; then
  for command in "${cluster_commands[@]+"${cluster_commands[@]}"}"; do echo "$command"; done
  for ((place = 1; place < ${#jobs[@]}; place += 2)); do echo "${jobs[place]}"; done
  exit 0
fi

train='
  mkdir -p "$0"
  if ! eval "$1" > "$0/log.txt" 2>&1; then
    echo "error: this command failed: $1" >&2
    tail -n 5 "$0/log.txt" >&2
    exit 255
  fi
  echo "$1" > "$0/command.txt"
  echo "$0"'
train_all() { # train_all JOBS FOLDER COMMAND...: a progress bar over the runs; the first error, or an interruption, stops all
  printf '%s\0' "${@:2}" | xargs -0 -n 2 -P "$1" bash -c "$train" | python -m tqdm --total $((($# - 1) / 2)) --desc "ablations" --unit run > /dev/null
}
python -m utils.download
if [[ ${#cluster_commands[@]} -gt 0 ]]; then
  eval "${cluster_commands[0]}" # alone, as the first run below: it computes what the others find in the cache
  printf '%s\0' "${cluster_commands[@]:1}" | xargs -0 -n 1 -P "$JOBS" bash -c 'eval "$0"'
fi
if [[ ${#jobs[@]} -gt 0 ]]; then train_all 1 "${jobs[@]:0:2}"; fi
if [[ ${#jobs[@]} -gt 2 ]]; then train_all "$JOBS" "${jobs[@]:2}"; fi
lost=()
if [[ " $AXES " == *" lost_LLM "* ]]; then lost=(--lose_llms); fi
python -m utils.report.ablations "$RUNS" --results "$RESULTS" --device "$DEVICE" --cache_dir "$CACHE_DIR" "${lost[@]+"${lost[@]}"}"
