"""SUPERB's query-by-example spoken term detection (QbE) on QUESST 2014, in which nothing is trained.

task      the task; `superb.yaml` holds its settings
quesst    the corpus, checked
truth     which documents hold which query, as the corpus' ground truth has it
expert    s3prl's expert, its features kept on the disk; what that takes:
    kept_features   the features of one layer in a folder
    alignments      all scores of a layer, in processes, kept as they come
    subsequence     the costs of all queries in a document
mtwv      the maximum term-weighted value of s3prl's detections
"""
