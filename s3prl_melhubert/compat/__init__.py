"""What mends s3prl on today's libraries, and the only part of the model's package that knows of s3prl.

finder.py               acts when a program imports s3prl; the .pth line calls it, so it imports little
restorations.py         the table of what s3prl expects and today's libraries removed
torchaudio_files.py     torchaudio's load, info and save, through soundfile
sox_effects.py          SoX's effects, without SoX
catalyst_samplers.py    the one class that s3prl uses of Catalyst
programs.py             s3prl's own programs, run from pip's s3prl
pretrain_workplace.py   the folder that run_pretrain.py needs for that
late_upstreams.py       upstreams whose library is imported only when one of them is made
shared_memory.py        batches of reading processes, where shared memory has no room for them
huggingface.py          what `--hub huggingface` calls, as it was before version 1.0 of huggingface_hub
layer_choice.py         run_downstream.py's -s and -l, held against the model's layers
command_lines/          mistakes on their command lines, told in a line
experts/                what s3prl's code for downstream tasks lacks, and what it cannot do
experiments/            checkpoints that s3prl's programs write and go on from
inspection.py           what s3prl and its hub hold, for `melhubert doctor`
"""
