"""SUPERB's emotion recognition (ER) on IEMOCAP: `task` is the task, `superb.yaml` its settings.

`iemocap.py` reads the corpus; `dialogs.txt` is the order of its dialogs in SUPERB's lists.
"""
