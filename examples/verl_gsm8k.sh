#!/usr/bin/env bash
# Qwen2.5-0.5B-Instruct on GSM8K in verl, 8 GPUs; prompts are chosen by DoPR.
#   pip install verl==0.9.1 TransferQueue cachetools uvicorn fastapi vllm
#   pip install --no-deps .        # in a clone of dopr
#   python examples/data_preprocess/gsm8k.py --local_save_dir data/gsm8k      # verl's own script
#   bash examples/verl_gsm8k.sh [key=value ...]
# Not yet run on a GPU by us; docs/verl.md says what was run.
set -euo pipefail

# Every process that imports verl loads these; ours comes last.
export VERL_USE_EXTERNAL_MODULES=dopr.engines.verl

python -m verl.trainer.main_ppo \
    +dopr.strategy=dopr \
    +dopr.strategy_args.prompts_per_step=8 \
    +dopr.strategy_args.candidates=64 \
    trainer.v1.trainer_mode=sync \
    algorithm.adv_estimator=grpo \
    data.train_files=data/gsm8k/train.parquet \
    data.val_files=data/gsm8k/test.parquet \
    data.train_batch_size=8 \
    data.max_prompt_length=512 \
    data.max_response_length=1024 \
    data.seed=1 \
    actor_rollout_ref.model.path=Qwen/Qwen2.5-0.5B-Instruct \
    actor_rollout_ref.model.use_remove_padding=True \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    actor_rollout_ref.actor.ppo_mini_batch_size=8 \
    actor_rollout_ref.actor.use_dynamic_bsz=True \
    actor_rollout_ref.actor.loss_agg_mode=token-mean \
    actor_rollout_ref.actor.use_kl_loss=False \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.n=16 \
    actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
    actor_rollout_ref.rollout.gpu_memory_utilization=0.5 \
    actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True \
    trainer.n_gpus_per_node=8 \
    trainer.nnodes=1 \
    trainer.total_training_steps=500 \
    trainer.save_freq=50 \
    trainer.test_freq=50 \
    trainer.logger='["console"]' \
    trainer.project_name=dopr \
    trainer.experiment_name=qwen2.5-0.5b-gsm8k \
    "$@"
