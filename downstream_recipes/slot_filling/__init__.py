"""SUPERB's slot filling (SF) on Audio SNIPS: `task` is the task, `superb.yaml` its settings.

`audio_snips.py` reads the corpus; `snips_dataset.py` stands in for the module of it that pip's s3prl lacks.
"""
