# The MiniLM recipes, sourced by the scripts that train them: RECIPE chooses, `flags` gets what train_router_mdeberta.py is told.
# router_train_minilm.sh says what each is.
set -euo pipefail

learning=(
  --top_k 1
  --last_k 6
  --negative_below 2
  --temperature 0.2
  --llm_learning_rate 1e-2
  --training_samples_per_dataset 2000
  --validation_fraction 0
  --selection last
)
averaged=(--targets gain --target_shrinkage 1 "${learning[@]}")
denoised=(--targets gain --target_pooling alike "${learning[@]}")
case "$RECIPE" in
  paper) flags=(--dropout 0) ;;
  layers) flags=(--train_layers 2 --learning_rate 1e-4 --llm_learning_rate 1e-2 --training_steps 100) ;;
  frozen) flags=(--freeze_encoder --learning_rate 1e-3) ;;
  tuned) flags=("${averaged[@]}" --freeze_encoder --learning_rate 3e-4) ;;
  tuned-layers) flags=("${averaged[@]}" --train_layers 2 --learning_rate 1e-4 --training_steps 200 --dropout 0) ;;
  tuned-all) flags=("${averaged[@]}" --training_steps 200 --dropout 0) ;;
  denoised) flags=("${denoised[@]}" --freeze_encoder --learning_rate 3e-4) ;;
  denoised-layers) flags=("${denoised[@]}" --train_layers 2 --learning_rate 1e-4 --training_steps 200 --dropout 0) ;;
  *)
    echo "error: RECIPE is '$RECIPE'; it must be tuned, tuned-layers, tuned-all, denoised, denoised-layers, frozen," \
      "layers or paper" >&2
    exit 2
    ;;
esac
