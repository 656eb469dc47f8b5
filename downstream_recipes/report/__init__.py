"""What experiments found.

results       an experiment's `results.json`
search        the folders in which experiments are looked for
table         the results of several experiments in Markdown
picture       the same as bars, and the weights of the layers
report        both, written to a folder
choice        which experiments of a folder tree are submitted
submission    the leaderboard's predict.zip
"""
