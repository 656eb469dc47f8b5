"""The trained downstream model of a finished experiment on new audio: what `melhubert superb predict` does.

predictor      `Predictor`: an experiment's folder to a model that takes waveforms
prediction     what it says of an utterance, as an object, a line and JSON
experiment     which checkpoints a finished experiment has to be used with, and which upstream
models         s3prl's own models, made from a checkpoint without the corpus
files          predictions of audio files
signal_files   where the signals are written that a model makes of them

What the outputs of a task's model stand for is said in the task (`Task.outputs`).
"""

from s3prl_melhubert.downstream_recipes.prediction.prediction import Choice, Prediction
from s3prl_melhubert.downstream_recipes.prediction.predictor import Predictor

__all__ = ["Choice", "Prediction", "Predictor"]
