"""What experiments found.

results       an experiment's `results.json`
search        the folders in which experiments are looked for
table         the results of several experiments in Markdown
picture       the same as bars, and the weights of the layers
report        both, written to a folder
of_checkpoint the results of one checkpoint, for its model card
choice        which experiments of a folder tree are submitted
submission    the leaderboard's predict.zip
"""
