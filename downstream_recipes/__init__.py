"""SUPERB's recipes: phone recognition, speaker identification and speech recognition."""
