"""SUPERB's intent classification (IC): `task` is the task, `superb.yaml` its settings, `fluent_commands` its
corpus.
"""
