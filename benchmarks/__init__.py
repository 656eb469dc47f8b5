"""Programs that print figures. `python -m benchmarks.NAME`, from a checkout, with the package installed.

    training_step, kernels, attention_error, hidden_states  the model on the CPU
    compressed, onnx, long_audio                            smaller models, another runtime, long recordings
    gpu_training, gpu_extract                               the model on a GPU
    bf16_training, float16_features                         whether training in half precision ends the same
    rows, two_processes, checkpoints                        a training's batches, processes and checkpoints
    manifest, data_loader, simulated_run                    what a training reads, up to 15 million utterances
    prepare, prepare_dask, prepare_memory, kmeans_labels    from audio to training data
    superb_sweep, phone_recognition, pronunciations         downstream tasks
    quickstart, startup                                     the whole path; the start of programs
    faults                                                  kills and full disks

`__main__.py` runs those that need nothing else and prints their table, `results/` holds what was measured,
and `common/` what several of them share.
"""
