"""`melhubert quickstart`: the whole path, from audio to a SUPERB table, on a small synthesized corpus.

quickstart    the steps, each a command of `melhubert`, and the running of them
corpus        the corpus: synthesized speech in the layouts of LibriSpeech and VoxCeleb1
sentences     what is spoken, from `words.yaml`; `lexicon.txt` has the pronunciations
*.yaml        settings of the small model and of its training
"""
