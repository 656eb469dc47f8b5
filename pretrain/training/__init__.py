"""From prepared sets to checkpoints: `melhubert pretrain`, and what s3prl's pre-training shares with it.

settings.py         the runner's YAML file
seeds.py            a seed for everything that is drawn at random
sampler.py          the plan of which utterances make which batch
dataset.py          the utterances of a batch: crops, labels, masks
rows/               batches for a GPU, in rows of one length
loading.py          from the settings to a stream of batches, and the processes that read
optimization.py     the optimizer, the learning rate, the gradient of a step
micro_batches.py    the gradient of a step, in smaller pieces where memory runs out
gradients.py        the sum of the gradients of all processes, sent while the rest is computed
processes.py        the processes that train together, their devices and precision
signals.py          SIGTERM and SIGINT, which end a run only after it has saved
metrics.py          log.csv, TensorBoard, curves, speed and MFU
beginning/          how a run begins: what it is asked to do, alone in its folder, and from which weights
checkpointing.py    last.ckpt, epoch-N.ckpt, step-N.ckpt
runner.py           the run, which composes the other files
"""
