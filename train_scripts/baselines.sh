#!/usr/bin/env bash
# Every baseline and control beside RouterDC, with MiniLM: Tables 1 and 2, intervals, paired differences, shares.
#   bash train_scripts/baselines.sh                 25 minutes on 2 busy cores; 4 more where nothing is embedded yet
#   bash train_scripts/baselines.sh --seeds 1 2     fewer seeds
# Writes results/comparison.md and comparison.json, and adds the runs to results/runs.jsonl and tables.md.
# The training loop repeats the rows of a small task up to --training_samples_per_dataset, as the paper does; the other
# routers see each row once. Finished runs are skipped, a stopped one goes on.
# Flags: those of both train_router_mdeberta.py and `python -m utils.baselines`, such as those that name data. With
# other settings, RUNS and RESULTS must be folders of their own. With --cost_rate leave out matrix_factorization and
# irt, which only predict right or wrong.
# Variables:
#   RECIPES              for all routers:
#     frozen             the paper's settings, rows and targets (the scores), the encoder frozen
#     tuned              right or wrong averaged over the rows of a task, up to 2000 rows of each, no row held back in
#                        the end
#     tuned-layers       (not by default) the same with the last two layers trained, 4 minutes a run: RouterDC,
#                        CosineClassifier, ZOOTER, and LoraRetriever on the encoder that RouterDC trained
#   LOSSES, ROUTERS      fewer routers, of those with RouterDC's training loop and of all others
#   ON_TRAINED           routers that run on the embeddings of each recipe's RouterDC, too; '' is none. By default
#                        LoraRetriever: as released it has a trained encoder
#   ENCODER, RUNS, RESULTS, and of the report AGAINST (a recipe) and RESAMPLES
set -euo pipefail
cd "$(dirname "$0")/.."

RECIPES="${RECIPES:-frozen tuned}"
LOSSES="${LOSSES:-routerdc cosine_classifier zooter}"
ROUTERS="${ROUTERS:-knn ridge mlp matrix_factorization kmeans lora_retriever irt task_classifier}"
ON_TRAINED="${ON_TRAINED-lora_retriever}"
ENCODER="${ENCODER:-minilm}"
AGAINST="${AGAINST:-tuned}"
RESAMPLES="${RESAMPLES:-10000}"
RUNS="${RUNS:-runs/baselines}"
RESULTS="${RESULTS:-results}"
same_settings='^( ?--(seeds|device|precision|cache_dir)( [^- ][^ ]*)+)*$'
if [[ ! "$*" =~ $same_settings && "$RESULTS" == results ]]; then
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
  losses=($LOSSES)
  python -m utils.plan --plan train_scripts/plans/comparison.yaml --only "${losses[@]/#/$recipe/}" "${seeds[@]}" \
    --runs "$RUNS" --encoder "$ENCODER" "$@"
  others=(python -m utils.baselines --label "$recipe" --save_path "$RUNS/$recipe" "${targets[@]}" "${seeds[@]}")
  if [[ "$recipe" != tuned-layers ]]; then
    "${others[@]}" --routers $ROUTERS --encoder "$ENCODER" "$@"
  fi
  if [[ " $LOSSES " == *" routerdc "* && -n "$ON_TRAINED" ]]; then
    "${others[@]}" --routers $ON_TRAINED --encoder_ckpt "$RUNS/$recipe/routerdc/seed_{seed}" \
      ${split[@]+"${split[@]}"} "$@"
  fi
done
python -m utils.baselines --routers random best_single best_per_task oracle --training_samples_per_dataset 0 \
  --save_path "$RUNS/controls" "${seeds[@]}" "$@"
python -m utils.report "$RUNS" --results "$RESULTS"
python -m utils.report --compare "$RUNS" --against "$AGAINST" --resamples "$RESAMPLES" --results "$RESULTS"
