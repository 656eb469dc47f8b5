"""`melhubert quickstart`: the whole path, from audio to a SUPERB table, on a small synthesized corpus."""
