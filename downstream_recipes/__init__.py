"""SUPERB's recipes, which are still to come: phone recognition, speaker identification, speech recognition."""
