"""SUPERB's phone recognition (PR) on LibriSpeech."""
