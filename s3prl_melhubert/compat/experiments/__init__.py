"""The checkpoints and settings of the experiments that s3prl's own programs make.

saving.py           a checkpoint is written whole, and the one before it goes when the next is there
loading.py          a checkpoint with a damaged byte is not loaded
past.py             the checkpoint that a program goes on from can be read, and is one of its own
passed_over.py      arguments that it passes over, because the checkpoint has others
relative_paths.py   files that are not those of the experiment when it goes on in another folder
recorded_folder.py  the folder that the checkpoint names can be made, or is not needed
overrides.py        what `-o` sets
"""
