"""How a run begins: with what it is asked to do, alone in its folder, and from which weights.

joining.py          how the processes of one run find each other
options.py          what the command line, the YAML files and a run that goes on say together
folder.py           one run at a time in its folder, where its settings are noted for --resume
initial.py          the checkpoint to start from (-i): what fits, and what is new
identity.py         what two halves of one run must have in common
resuming.py         going on from a checkpoint of the run
start.py            the weights and the state that a run begins with
introduction.py     what it says before its first step
"""
