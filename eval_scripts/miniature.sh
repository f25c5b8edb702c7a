#!/usr/bin/env bash
# The whole pipeline in miniature, real at every step: train five tiny LLMs, let them answer in lm-evaluation-harness,
# run their programs in the sandbox, convert and cluster with both notebooks, train RouterDC, test it in and out of
# distribution.
#   bash eval_scripts/miniature.sh                 about 9 minutes on 2 cores, no GPU, no model hub
#   SIZE=small bash eval_scripts/miniature.sh      about 4 minutes: four LLMs, shorter training, fewer questions
# Everything lands in $RUNS. What is finished is skipped, so a stopped run goes on with the same command. The table at
# the end is also in $RUNS/router/table.md. Settings: SIZE, SEED (texts, LLMs, clusters), SEEDS (routers), LLMS, JOBS
# (LLMs at a time), ENCODER, RUNS; STEPS runs some of the steps only. Further flags go to train_router_mdeberta.py.
# `utils/miniature` says what the LLMs are taught.
set -euo pipefail
cd "$(dirname "$0")/.."

SIZE="${SIZE:-full}"
case "$SIZE" in
  full) LLMS="${LLMS:-maths coder reader chinese generalist}" SEEDS="${SEEDS:-1 2 3}" RUNS="${RUNS:-runs/miniature}" ;;
  small) LLMS="${LLMS:-maths coder reader chinese}" SEEDS="${SEEDS:-1}" RUNS="${RUNS:-runs/miniature_small}" ;;
  *) echo "error: SIZE is '$SIZE'; it must be full or small" >&2; exit 2 ;;
esac
SEED="${SEED:-1}"
JOBS="${JOBS:-3}"
ENCODER="${ENCODER:-minilm}"
DEVICE="${DEVICE:-auto}"
STEPS="${STEPS:-texts llms score convert cluster router}"
TRAIN="${TRAIN:-$RUNS/clustered}"   # folders of the data that routers are trained on and tested with
TEST="${TEST:-$RUNS/converted}"
ROUTER="${ROUTER:-$RUNS/router}"
if [[ "$RUNS" = *[\'\",]* ]]; then
  echo "error: RUNS is '$RUNS'; choose a path without quotes and commas" >&2
  exit 2
fi

source train_scripts/env.sh
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false MINIATURE_TEXTS="$RUNS/texts"

say() { printf '\n== %s (%d:%02d)\n' "$*" $((SECONDS / 60)) $((SECONDS % 60)); }

# each TITLE COMMAND...: the command for every LLM, {} standing for its name; JOBS at a time, one core and one log each
each() {
  local title="$1"
  shift
  mkdir -p "$RUNS/logs"
  printf '%s\n' $LLMS | TITLE="$title" LOGS="$RUNS/logs" OMP_NUM_THREADS=1 xargs -P "$JOBS" -I '{}' bash -c '
    name="$1" log="$LOGS/$TITLE-$1.log"
    shift
    if "$@" > "$log" 2>&1; then
      echo "$name: $SECONDS s"
    else
      tail -n 30 "$log" >&2
      echo "error: $TITLE $name failed, see above and $log; the same command goes on" >&2
      exit 255
    fi' _ '{}' "$@"
}

executed() {  # name settings: whether that notebook has been executed with these settings
  [[ -f "$RUNS/$1.ipynb" && "$(cat "$RUNS/$1.settings" 2>/dev/null || true)" == "$2" ]]
}

notebook() {  # file name settings parameters...: execute it; the result is in place only if every cell succeeded
  local file="$1" name="$2" settings="$3"
  shift 3
  mkdir -p "$RUNS/logs"
  if ! python -m papermill --no-progress-bar "$file" "$RUNS/$name.part.ipynb" "$@" > "$RUNS/logs/$name.log" 2>&1; then
    tail -n 40 "$RUNS/logs/$name.log" >&2
    echo "error: $file failed, see above and $RUNS/logs/$name.log" >&2
    exit 2
  fi
  mv "$RUNS/$name.part.ipynb" "$RUNS/$name.ipynb"
  echo "$settings" > "$RUNS/$name.settings"
  echo "executed: $RUNS/$name.ipynb"
}

for step in $STEPS; do
  case "$step" in
    texts)
      say "1. Questions and training texts"
      python -m utils.miniature texts --runs "$RUNS" --size "$SIZE" --seed "$SEED"
      ;;
    llms)
      say "2. Train the LLMs: $LLMS; progress in $RUNS/logs"
      untrained=""
      for name in $LLMS; do if [[ ! -f "$RUNS/llms/$name/training.json" ]]; then untrained+=" $name"; fi; done
      if [[ -n "$untrained" ]]; then
        LLMS="$untrained" each train \
          python -m utils.miniature llms '{}' --runs "$RUNS" --size "$SIZE" --seed "$SEED"
      fi
      ;;
    score)
      say "3. Answers, with lm-evaluation-harness; progress in $RUNS/logs"
      tasks="mini_arithmetic_train+mini_arithmetic_test+mini_facts_geography+mini_facts_animals+mini_facts_people"
      tasks+="+mini_facts_numbers+mini_functions+mini_chinese_antonyms+mini_chinese_measures+mini_chinese_kinds"
      tasks+="+mini_prices+mini_snippets+mini_idioms_idioms+mini_idioms_capitals"
      TASKS="miniature=$tasks" OUT="$RUNS/answers" BACKEND=hf DEVICE=cpu MODEL_ARGS=dtype=float32 \
        BATCH_SIZE="${BATCH_SIZE:-128}" INCLUDE=eval_scripts/tasks/miniature \
        each score env MODELS="'mini/{}=$RUNS/llms/{}'" bash eval_scripts/score.sh
      ;;
    convert)
      say "4. Scores from answers: convert_dataset_7_model.ipynb"
      settings="LLMS=$LLMS SEED=$SEED"
      if ! executed convert "$settings"; then
        notebook convert_dataset_7_model.ipynb convert "$settings" \
          -p logs "$RUNS/answers" \
          -p output "$RUNS/converted" \
          -p figures "$RUNS/figures" \
          -p spec eval_scripts/tasks/miniature/conversions.json \
          -p run_code True \
          -p flags "--llms $(printf 'mini/%s ' $LLMS)--seed $SEED --workers $JOBS --time_limit 3 --answers '$RUNS/said'"
      fi
      ;;
    cluster)
      say "5. Clusters: cluster_generate.ipynb"
      settings="LLMS=$LLMS ENCODER=$ENCODER SEED=$SEED"
      if ! executed cluster "$settings"; then
        train=("$RUNS"/converted/{arithmetic,facts,functions,chinese}_train.json)
        notebook cluster_generate.ipynb cluster "$settings" \
          -p data_paths "$(printf "'%s' " "${train[@]}")" \
          -p output "$RUNS/clustered" \
          -p overwrite True \
          -p results "$RUNS/figures/clusters" \
          -p encoder "$ENCODER" \
          -p seed "$SEED" \
          -p device "$DEVICE"
      fi
      ;;
    router)
      say "6. Train RouterDC and test it"
      data=(
        --data_paths "$TRAIN"/{arithmetic,facts,functions,chinese}_train.json
        --data_type multi_attempt probability multi_attempt probability
        --test_data_paths "$TEST"/{arithmetic,facts,functions,chinese}_test.json
        --test_data_type multi_attempt probability multi_attempt probability
        --final_eval_data_paths "$TEST"/{prices,snippets,idioms}.json
        --final_eval_data_type multi_attempt multi_attempt probability
      )
      for seed in $SEEDS; do
        python train_router_mdeberta.py \
          --recipe miniature --label miniature \
          "${data[@]}" \
          --encoder "$ENCODER" \
          --device "$DEVICE" \
          --seed "$seed" \
          --save_path "$ROUTER/seed_$seed" \
          "$@"
      done
      say "7. The table: all seeds, in distribution and out of it"
      # voting needs what the LLMs answered, not the scores alone
      if [[ "$TEST" == "$RUNS/converted" && -d "$RUNS/said" ]]; then
        python -m utils.baselines --routers voting --answers "$RUNS/said" "${data[@]}" \
          --encoder "$ENCODER" --device "$DEVICE" --save_path "$ROUTER/baselines"
      fi
      python -m utils.miniature table --runs "$RUNS" --router "$ROUTER"
      ;;
    *) echo "error: STEPS has '$step'; it must be of: texts llms score convert cluster router" >&2; exit 2 ;;
  esac
done
say "Done"
