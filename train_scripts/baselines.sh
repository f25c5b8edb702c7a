#!/usr/bin/env bash
# Every baseline and control beside RouterDC, with MiniLM: Tables 1 and 2, intervals, paired differences, routing shares.
#   bash train_scripts/baselines.sh                    25 minutes on 2 busy cores, one of them used; 4 more where nothing is embedded yet
#   FINETUNED=1 bash train_scripts/baselines.sh        also RouterDC, CosineClassifier and ZOOTER with the last two layers trained (tuned-layers),
#                                                      4 to 6 minutes more for each of three losses and each of SEEDS_LAYERS
# Writes results/comparison.md and comparison.json, and adds the runs to results/runs.jsonl and tables.md. Two recipes, each for all routers:
#   frozen   the paper's settings, rows and targets (the scores), the encoder frozen
#   tuned    right or wrong averaged over the rows of a task, up to 2000 rows of each task, no row held back in the end (see router_train_minilm.sh)
# The training loop repeats the rows of a small task up to that number, as the paper does; the other routers see each row once.
# Finished runs are skipped, a stopped one goes on. Further flags name data and lengths, and go to both trainers; TRAINER_FLAGS to the training loop alone.
# Each recipe ends with LoraRetriever on the embeddings of its RouterDC: as released it has a trained encoder.
# ON_TRAINED names the routers that run so: none with ON_TRAINED= or where LOSSES has no routerdc.
# ROUTERS and LOSSES choose fewer routers: with --cost_rate leave out matrix_factorization and irt, which only predict right or wrong.
set -euo pipefail
cd "$(dirname "$0")/.."

SEEDS="${SEEDS:-1 2 3 4 5}"
FINETUNED="${FINETUNED:-0}"
SEEDS_LAYERS="${SEEDS_LAYERS:-$SEEDS}"
RECIPES="${RECIPES:-frozen tuned}"
LOSSES="${LOSSES:-routerdc cosine_classifier zooter}"
ROUTERS="${ROUTERS:-knn ridge mlp matrix_factorization kmeans lora_retriever irt task_classifier}"
ON_TRAINED="${ON_TRAINED-lora_retriever}"
ENCODER="${ENCODER:-minilm}"
DEVICE="${DEVICE:-auto}"
PRECISION="${PRECISION:-auto}"
AGAINST="${AGAINST:-tuned}"
RESAMPLES="${RESAMPLES:-10000}"
RUNS="${RUNS:-runs/baselines}"
COLLECT="${COLLECT:-1}"
RESULTS="${RESULTS:-results}"
read -ra trainer_flags <<< "${TRAINER_FLAGS:-}"
source train_scripts/overrides.sh
if [[ $(($# + ${#trainer_flags[@]} + ${#overrides[@]})) -gt 0 && "$RESULTS" == results ]]; then
  echo "error: with other settings the rows of results/ would no longer be those recipes; give RESULTS and RUNS folders of their own" >&2
  exit 2
fi

source train_scripts/env.sh
python -m utils.download
export ROUTERDC_NO_VENV=1 # the environment is active now; the scripts below need not look for it again

losses() { # losses RECIPE SEEDS FLAGS...: the routers that share RouterDC's training loop
  local recipe="$1" seeds="$2" loss
  shift 2
  for loss in $LOSSES; do
    COLLECT=0 LABEL="" RECIPE="$recipe" SEEDS="$seeds" ENCODER="$ENCODER" DEVICE="$DEVICE" PRECISION="$PRECISION" FIDELITY=paper RUNS="$RUNS/$recipe/$loss" \
      bash train_scripts/router_train_minilm.sh --loss "$loss" "$@" ${trainer_flags[@]+"${trainer_flags[@]}"}
  done
}

on_trained() { # on_trained RECIPE SEEDS FLAGS...: other routers on the query embeddings of the recipe's RouterDC
  local recipe="$1" seeds="$2"
  shift 2
  if [[ -z "$ON_TRAINED" || " $LOSSES " != *" routerdc "* ]]; then return; fi
  python -m utils.baselines \
    --routers $ON_TRAINED \
    --seeds $seeds \
    --encoder_ckpt "$RUNS/$recipe/routerdc/seed_{seed}" \
    --device "$DEVICE" \
    --precision "$PRECISION" \
    --recipe "$recipe" \
    --save_path "$RUNS/$recipe" \
    "$@"
}

averaged=(--targets gain --target_shrinkage 1 --training_samples_per_dataset 2000 --refit)
for recipe in $RECIPES; do
  losses "$recipe" "$SEEDS" "$@"
  case "$recipe" in
    frozen) flags=(--targets score) held=() ;;
    tuned) flags=("${averaged[@]}") held=(--validation_fraction 0) ;; # held: RouterDC's split, where it has another
    *) echo "error: RECIPES names '$recipe'; it must be frozen or tuned" >&2; exit 2 ;;
  esac
  python -m utils.baselines \
    --routers $ROUTERS \
    --seeds $SEEDS \
    --encoder "$ENCODER" \
    --device "$DEVICE" \
    --precision "$PRECISION" \
    --recipe "$recipe" \
    --save_path "$RUNS/$recipe" \
    "${flags[@]}" \
    "$@"
  on_trained "$recipe" "$SEEDS" "${flags[@]}" ${held[@]+"${held[@]}"} "$@"
done
python -m utils.baselines --routers random best_single best_per_task oracle --seeds $SEEDS --training_samples_per_dataset 0 --save_path "$RUNS/controls" "$@"
if [[ "$FINETUNED" == 1 ]]; then
  losses tuned-layers "$SEEDS_LAYERS" "$@"
  on_trained tuned-layers "$SEEDS_LAYERS" "${averaged[@]}" --validation_fraction 0 "$@"
fi
if [[ "$COLLECT" == 1 ]]; then python -m utils.report "$RUNS" --results "$RESULTS"; fi
python -m utils.report --compare "$RUNS" --against "$AGAINST" --resamples "$RESAMPLES" --results "$RESULTS"
