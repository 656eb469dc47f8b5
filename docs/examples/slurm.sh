#!/bin/bash
# Pre-training on 4 machines of 8 GPUs under SLURM: sbatch slurm.sh
#SBATCH --job-name=melhubert
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

# torchrun on each machine starts a process for each GPU. The machines meet at the first of them, under the job's
# id. By this id a restarted or requeued job knows its own run in EXPDIR and goes on with it.
HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# When the time is over, SLURM sends SIGTERM to all processes; the run saves, and torchrun ends with status 1.
# The run has 30 s for it (SLURM's KillWait, and torchrun's own).
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node 8 --max-restarts 3 \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$HOST:29500" \
    -m s3prl_melhubert pretrain -f 20 -c runner.yaml --data data/train --valid data/dev -n exp/stage1
