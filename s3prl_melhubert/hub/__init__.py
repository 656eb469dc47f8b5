"""Checkpoints for the Hugging Face Hub; importing this package tells transformers of MelHuBERT.

    configuration_melhubert.py, modeling_melhubert.py    MelHuBERT as models of transformers
    feature_extraction_melhubert.py                      waveforms to what these models take
    superb_expert.py, plain_kernels.py                   what else the files of a Hub folder are made of
    source_bundle.py                                     one file of several modules
    export.py, card.py                                   a folder for the Hub, and its README.md
    saving.py                                            what the classes save by themselves

After `import s3prl_melhubert.hub`, `AutoModel.from_pretrained(FOLDER)` needs no code from the folder. Without
transformers, or with one that wants a newer torch, a folder can be written all the same.
"""

from importlib.util import find_spec


def register() -> None:
    """Tell transformers' Auto classes of MelHuBERT; a second call does nothing more."""
    import transformers

    if not transformers.is_torch_available():  # Its models are then classes that cannot be used.
        return
    from s3prl_melhubert.hub import configuration_melhubert, feature_extraction_melhubert, modeling_melhubert
    from s3prl_melhubert.hub.export import AUTO_MODELS
    from s3prl_melhubert.hub.saving import with_code

    with_code(modeling_melhubert.MelHuBERTPreTrainedModel)
    with_code(feature_extraction_melhubert.MelHuBERTFeatureExtractor)
    config = configuration_melhubert.MelHuBERTConfig
    transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
    transformers.AutoFeatureExtractor.register(
        config, feature_extraction_melhubert.MelHuBERTFeatureExtractor, exist_ok=True
    )
    for auto, model in AUTO_MODELS.items():
        getattr(transformers, auto).register(config, getattr(modeling_melhubert, model), exist_ok=True)


if find_spec("transformers") is not None:
    register()
