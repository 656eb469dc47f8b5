"""SUPERB's speaker diarization (SD) on Libri2Mix.

task         the task; `superb.yaml` holds its settings
kaldi_data   mixtures in Kaldi's layout, checked
mixing       the mixtures, made from LibriSpeech
error_rate   the diarization error rate of s3prl's predictions
"""
