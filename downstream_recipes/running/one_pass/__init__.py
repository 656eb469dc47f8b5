"""Several learning rates in one pass: the frozen upstream runs once a batch, and all learn from its states.

What is trained, how it is scored and what is written is s3prl's: its experts, featurizer, data loaders,
optimizers and schedules, a folder a rate. Only the loop is here.

generators         the random generators that s3prl draws from: taken, put back, compared
rate               the models of one learning rate, and one step of theirs
evaluation         one pass over a split for all rates
loop               training, from the first batch or from where it was cut off
position           where training stands, as a file
start              s3prl's arguments and settings for a rate, and the state of the libraries that it wants
layers             in a task where nothing is trained: one pass for all layers of the upstream
runs               training and testing of an experiment's rates, which is what others call
choice             which rate, or which layer, counts, and its test
"""
