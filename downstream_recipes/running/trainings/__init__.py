"""One training of an experiment: a learning rate in a folder of s3prl's, from which both it and s3prl go on.

training           training it with s3prl's own program, and testing its checkpoints
layer_test         one layer of an upstream in a task where nothing is trained
s3prl_experiment   the folder and the command lines of both, as s3prl's program takes them
times              the hours so far, and whether it has ended
checkpoints        s3prl's: read as data, compared with what is asked for
"""
