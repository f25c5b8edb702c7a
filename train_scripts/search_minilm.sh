#!/usr/bin/env bash
# How the "tuned" MiniLM recipe was chosen: candidates compared on validation rows only, no test file is opened.
#   bash train_scripts/search_minilm.sh        about 50 minutes on 2 cores
# Each candidate is trained on a random 80 % of the training rows of each seed and scored on the other 20 %, at the last step;
# results/search.md has mean and standard deviation. router_train_minilm.sh then trains the winners, one with a frozen
# encoder and one with its last layers trained, on all rows.
set -euo pipefail
cd "$(dirname "$0")/.."

SEEDS="${SEEDS:-1 2 3 4 5}"
SEEDS_LAYERS="${SEEDS_LAYERS:-$SEEDS}"
ENCODER="${ENCODER:-minilm}"
RUNS="${RUNS:-runs/search/${ENCODER##*/}}"

source train_scripts/env.sh
python -m utils.download

validate() { # validate NAME SEEDS FLAGS...
  local name="$1" seeds="$2" seed
  shift 2
  for seed in $seeds; do
    python train_router_mdeberta.py \
      --encoder "$ENCODER" \
      --validation_fraction 0.2 \
      --selection last \
      --eval_steps 200 \
      --no-final_eval \
      --recipe "$name" \
      --seed "$seed" \
      --save_path "$RUNS/$name/seed_$seed" \
      "$@"
  done
}

try() { # try NAME FLAGS...: with a frozen encoder
  local name="$1"
  shift
  validate "$name" "$SEEDS" --freeze_encoder --learning_rate 1e-3 "$@"
}

averaged=(--targets gain --top_k 1 --last_k 6 --negative_below 2 --temperature 0.2)
try paper
try paper_temperature_0.2 --temperature 0.2
try paper_ties_random --ties random
try paper_ties_released --ties released
try paper_ties_columns --ties columns
try gain --targets gain
try gain_ties_random --targets gain --ties random
try gain_top_1 "${averaged[@]}"
try gain_top_1_ties_random "${averaged[@]}" --ties random
try task_mean_0.5 "${averaged[@]}" --target_shrinkage 0.5
try task_mean_0.9 "${averaged[@]}" --target_shrinkage 0.9
try task_mean_1 "${averaged[@]}" --target_shrinkage 1
try cluster_mean_0.9 "${averaged[@]}" --target_shrinkage 0.9 --target_groups cluster
try cluster_mean_1 "${averaged[@]}" --target_shrinkage 1 --target_groups cluster
try cluster_mean_1_lambda_0 "${averaged[@]}" --target_shrinkage 1 --target_groups cluster --cluster_loss_weight 0
try cluster_mean_1_temperature_1 "${averaged[@]}" --target_shrinkage 1 --target_groups cluster --temperature 1
try cluster_mean_1_2000_rows "${averaged[@]}" --target_shrinkage 1 --target_groups cluster --training_samples_per_dataset 2000
small=("${averaged[@]}" --target_shrinkage 1 --training_samples_per_dataset 2000 --llm_learning_rate 1e-2)
try task_mean_1_2000_rows "${averaged[@]}" --target_shrinkage 1 --training_samples_per_dataset 2000
try task_mean_1_head_3e-4 "${small[@]}" --learning_rate 3e-4
try task_mean_1_head_1e-4 "${small[@]}" --learning_rate 1e-4
try task_mean_1_head_3e-5 "${small[@]}" --learning_rate 3e-5
try task_mean_1_head_1e-4_temperature_0.1 "${small[@]}" --learning_rate 1e-4 --temperature 0.1
try task_mean_1_head_1e-4_lambda_0 "${small[@]}" --learning_rate 1e-4 --cluster_loss_weight 0
try cluster_mean_1_head_1e-4 "${small[@]}" --learning_rate 1e-4 --target_groups cluster
fitted=("${averaged[@]}" --training_samples_per_dataset 2000 --llm_learning_rate 1e-2)
try pooled_question --target_pooling question
try pooled_question_gain --target_pooling question --targets gain
try pooled_question_head_3e-4 "${fitted[@]}" --target_pooling question --learning_rate 3e-4
try pooled_question_score_head_3e-4 "${fitted[@]}" --target_pooling question --learning_rate 3e-4 --targets score
try pooled_alike --target_pooling alike
try pooled_alike_gain --target_pooling alike --targets gain
try pooled_alike_head_3e-4 "${fitted[@]}" --target_pooling alike --learning_rate 3e-4
try pooled_alike_head_1e-4 "${fitted[@]}" --target_pooling alike --learning_rate 1e-4
try pooled_alike_score_head_3e-4 "${fitted[@]}" --target_pooling alike --learning_rate 3e-4 --targets score
validate task_mean_1_layers_2 "$SEEDS_LAYERS" "${small[@]}" --train_layers 2 --learning_rate 1e-4 --training_steps 200 --dropout 0
python -m utils.report --search "$RUNS"
