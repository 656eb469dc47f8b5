"""What every room uses and what knows nothing of speech.

files.py           files and folders written whole or not at all, small files of JSON, hashes and paths
writable.py        whether a file or a folder can be written
locks.py           one writer for a folder, or for a file
arrays.py          .npy files, opened with care and written whole or row by row
tensor_files.py    files of tensors, read as data
made_from.py       what something was made from then and would be now: whether it may be continued
settings.py        YAML files: their sections, and the typed values of their keys
interruption.py    Ctrl-C, which ends a command at once, and what it must not fall into
read_ahead.py      what is needed next, read in threads while what came before is worked on
progress.py        a bar on a terminal, a line now and then elsewhere
devices.py         which device computes, and with which precision
memory.py          how much memory there is, and what becomes of what is freed
host_copies.py     copies of tensors, in memory that is used again
tensorboard/       TensorBoard's files, of which a full disk is told
huggingface.py     files of the Hugging Face Hub, and folders sent to it
"""
