"""Checkpoints as programs for other runtimes.

waveform_model.py    the whole way from waveforms to hidden states as one module of plain operations
onnx.py              the same as an .onnx file: what `melhubert convert IN OUT.onnx` does
"""
