#!/usr/bin/env bash
# Every baseline and control beside RouterDC, with MiniLM: Tables 1 and 2, intervals, paired differences, shares.
#   bash train_scripts/baselines.sh                 20 minutes on 2 busy cores; 4 more where nothing is embedded yet
#   bash train_scripts/baselines.sh --seeds 1 2     fewer seeds
# Writes results/comparison.md and comparison.json, and adds the runs to results/runs.jsonl and tables.md.
# RECIPES, each for all routers:
#   frozen         the paper's settings, rows and targets (the scores), the encoder frozen
#   tuned          right or wrong averaged over the rows of a task, up to 2000 rows of each, no row held back in the end
#   tuned-layers   (not by default) the same with the last two layers trained, 4 minutes a run: RouterDC,
#                  CosineClassifier, ZOOTER, and LoraRetriever on the encoder that RouterDC trained
# The training loop repeats the rows of a small task up to that number, as the paper does; the other routers see each
# row once. Each recipe ends with LoraRetriever on the embeddings of its RouterDC: as released it has a trained encoder.
# Finished runs are skipped, a stopped one goes on. Further flags go to both trainers, such as those that name data;
# then give RUNS and RESULTS folders of their own. LOSSES and ROUTERS choose fewer routers: with --cost_rate leave out
# matrix_factorization and irt, which only predict right or wrong.
set -euo pipefail
cd "$(dirname "$0")/.."

RECIPES="${RECIPES:-frozen tuned}"
LOSSES="${LOSSES:-routerdc cosine_classifier zooter}"
ROUTERS="${ROUTERS:-knn ridge mlp matrix_factorization kmeans lora_retriever irt task_classifier}"
ENCODER="${ENCODER:-minilm}"
AGAINST="${AGAINST:-tuned}"
RESAMPLES="${RESAMPLES:-10000}"
RUNS="${RUNS:-runs/baselines}"
RESULTS="${RESULTS:-results}"
only_seeds='^(--seeds( [0-9]+)+)?$'
if [[ ! "$*" =~ $only_seeds && "$RESULTS" == results ]]; then
  echo "error: with other settings the rows of results/ would no longer be those recipes;" \
    "give RESULTS and RUNS folders of their own" >&2
  exit 2
fi
seeds=(--seeds 1 2 3 4 5) # "$@" has the last word

source train_scripts/env.sh
python -m utils.download

averaged=(--targets gain --target_shrinkage 1 --training_samples_per_dataset 2000 --refit)
for recipe in $RECIPES; do
  case "$recipe" in
    frozen) targets=(--targets score) split=() ;;
    tuned | tuned-layers) targets=("${averaged[@]}") split=(--validation_fraction 0) ;; # split: RouterDC's
    *) echo "error: RECIPES names '$recipe'; it must be frozen, tuned or tuned-layers" >&2; exit 2 ;;
  esac
  python -m utils.plan --plan train_scripts/plans/comparison.yaml --only $(printf "$recipe/%s " $LOSSES) "${seeds[@]}" \
    --runs "$RUNS" --encoder "$ENCODER" "$@"
  others=(python -m utils.baselines --label "$recipe" --save_path "$RUNS/$recipe" "${targets[@]}" "${seeds[@]}")
  if [[ "$recipe" != tuned-layers ]]; then
    "${others[@]}" --routers $ROUTERS --encoder "$ENCODER" "$@"
  fi
  if [[ " $LOSSES " == *" routerdc "* && " $ROUTERS " == *" lora_retriever "* ]]; then
    "${others[@]}" --routers lora_retriever --encoder_ckpt "$RUNS/$recipe/routerdc/seed_{seed}" "${split[@]}" "$@"
  fi
done
python -m utils.baselines --routers random best_single best_per_task oracle --training_samples_per_dataset 0 \
  --save_path "$RUNS/controls" "${seeds[@]}" "$@"
python -m utils.report "$RUNS" --results "$RESULTS"
python -m utils.report --compare "$RUNS" --against "$AGAINST" --resamples "$RESAMPLES" --results "$RESULTS"
