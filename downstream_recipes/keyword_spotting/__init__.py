"""SUPERB's keyword spotting (KS) on Speech Commands: `task` is the task, `superb.yaml` its settings,
`speech_commands` its corpus.
"""
