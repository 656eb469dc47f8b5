"""One upstream in one task, from the check of all that is needed to the result.

experiment         its course
asked              the settings that the user asks for
checked            the look at the corpus and the upstream
identity           what an experiment is, by which its folder is continued or another one refused
result             what is written at the end: the score, what it was reached with, what is not SUPERB's
second_test        a task's second test, with a language model
parts              a task of several parts, such as folds: an experiment for each, and their mean
"""
