"""SUPERB's recipes (to come): phone recognition, speaker identification, speech recognition."""
