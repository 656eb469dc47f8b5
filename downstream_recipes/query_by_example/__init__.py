"""SUPERB's query-by-example spoken term detection (QbE) on QUESST 2014, in which nothing is trained.

task      the task; `superb.yaml` holds its settings
quesst    the corpus, checked
truth     which documents hold which query, as the corpus' ground truth has it
mtwv      the maximum term-weighted value of s3prl's detections
"""
