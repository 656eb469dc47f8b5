"""What makes `-u melhubert` work in s3prl: a finder that acts when somebody imports s3prl.

    install_from_pth()   is called by the .pth line in site-packages, at every start of the interpreter
    install()            does the same without asking S3PRL_MELHUBERT_AUTOLOAD, and may be called twice

s3prl has no plugin mechanism: its hub imports each upstream by name. So a finder stands first on
`sys.meta_path`. Before the first submodule of s3prl is looked for, it puts back what today's libraries
took away (`restorations.restore`). After `s3prl.hub` has been loaded, it adds the entries of
`upstream_expert.hubconf`. Two upstreams that import transformers wait until they are used, so that the hub is
imported in half the time. Where s3prl lacks the corpus modules of its own `ctc`, as pip's does, ours stand
in. A program that never imports s3prl sees none of this, and pays for one string comparison for each import:
this module imports `os` and `sys` alone, which every interpreter has loaded.
"""

import os
import sys

AUTOLOAD = "S3PRL_MELHUBERT_AUTOLOAD"


def install_from_pth() -> None:
    """Install the finder unless S3PRL_MELHUBERT_AUTOLOAD=0. It never raises: no program may fail here."""
    if os.environ.get(AUTOLOAD) == "0":
        return
    with _Warned("announce itself to s3prl"):
        install()


def install() -> None:
    """Put the finder first on `sys.meta_path`, once; serve at once what of s3prl is loaded already."""
    if any(isinstance(finder, S3prlFinder) for finder in sys.meta_path):
        return
    finder = S3prlFinder()
    sys.meta_path.insert(0, finder)
    if any(name.startswith("s3prl.") for name in sys.modules):
        finder.restore()
    for name, act in _AFTER_LOADING.items():
        if name in sys.modules:
            act(sys.modules[name])


class S3prlFinder:
    """Leaves the finding to the finders after it, and acts before and after they load parts of s3prl."""

    def __init__(self) -> None:
        from _thread import RLock  # This is built in, while `threading` would have to be loaded.

        self._lock = RLock()
        self._restored = False

    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith("s3prl."):
            self.restore()
            if fullname in _STAND_INS:
                return _find_elsewhere(self, fullname, path, target) or _stand_in(fullname)
            if fullname in _LATE_UPSTREAMS and _is_being_imported("s3prl.hub"):
                return _postponed(_find_elsewhere(self, fullname, path, target))
            if fullname not in _AFTER_LOADING:
                return None
        elif fullname != "pretrain.runner":
            return None
        spec = _find_elsewhere(self, fullname, path, target)
        if fullname == "pretrain.runner":
            if not _is_s3prls_runner(spec):
                return spec
            self.restore()
        if spec is not None:
            with _Warned(f"follow the loading of {fullname}"):
                _act_after_loading(spec, _AFTER_LOADING[fullname])
        return spec

    def restore(self) -> None:
        """Restore what s3prl expects of its libraries, once in a process."""
        # A second thread must not go on to s3prl while the first is still restoring.
        with self._lock:
            if self._restored:
                return
            self._restored = True
            try:
                from s3prl_melhubert.compat import restorations

                failed = restorations.restore().failed
            except Exception as error:
                failed = {"what today's libraries removed": error}
            if failed:  # They share a line, because one broken library makes several rows fail.
                _warn(f"restore what s3prl expects: {', '.join(failed)}", next(iter(failed.values())))


def _find_elsewhere(this, fullname, path, target):
    """Return the spec that the import system would find without `this` finder, or None."""
    for finder in sys.meta_path:
        find_spec = None if finder is this else getattr(finder, "find_spec", None)
        spec = None if find_spec is None else find_spec(fullname, path, target)
        if spec is not None:
            return spec
    return None


def _is_s3prls_runner(spec) -> bool:
    """Tell whether a `pretrain.runner` is s3prl's: run_pretrain.py stands beside the folder `pretrain`."""
    if spec is None or not spec.origin:
        return False
    checkout = os.path.dirname(os.path.dirname(os.path.abspath(spec.origin)))
    return os.path.isfile(os.path.join(checkout, "run_pretrain.py"))


def _act_after_loading(spec, act) -> None:
    """Have the module's own loader call `act(module)` when it has run the module.

    Only `exec_module` is replaced, on this one loader. Everything else that is asked of a loader
    (by `python -m`, by `inspect.getsource`, for resources) meets the real one.
    """
    loader = spec.loader
    exec_module = loader.exec_module

    def exec_module_and_act(module) -> None:
        exec_module(module)
        if module.__spec__ is spec:  # A zip file has one loader for all its modules.
            act(module)

    loader.exec_module = exec_module_and_act


def _is_being_imported(name: str) -> bool:
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False)


def _postponed(spec):
    """Have a module's code run when it is used, and not now."""
    with _Warned("put off what only some upstreams need"):
        from s3prl_melhubert.compat import late_upstreams

        if spec is not None:
            late_upstreams.postpone(spec)
    return spec


def _register(hub) -> None:
    """Add this package's entries to s3prl's hub."""
    with _Warned("bring back what it put off"):
        from s3prl_melhubert.compat import late_upstreams

        late_upstreams.settle()
    with _Warned("add its upstreams to s3prl.hub"):
        from s3prl_melhubert.upstream_expert import hubconf

        for name in hubconf.__all__:
            setattr(hub, name, getattr(hubconf, name))


def _allow_schedules(module) -> None:
    """Let checkpoints hold the learning rate schedules of s3prl's `optimizers`."""
    # run_pretrain.py, in its checkout, knows s3prl.optimizers as plain `optimizers`.
    optimizers = sys.modules.get("optimizers") if module.__name__ == "pretrain.runner" else module
    with _Warned("let torch.load accept s3prl's own checkpoints"):
        from s3prl_melhubert.compat import restorations

        restorations.allow_schedules(optimizers)


def _restore_kenlm_decoding(module) -> None:
    """Let s3prl's ASR decode with a language model, or tell in one line why it cannot."""
    with _Warned("let s3prl's ASR decode with a language model"):
        from s3prl_melhubert.compat.experts import kenlm_decoding

        kenlm_decoding.restore(module)


def _restore_device(module) -> None:
    """Let a task whose expert knows the first GPU alone run on a CPU, and on any GPU."""
    with _Warned(f"let {module.__name__} run on every device"):
        from s3prl_melhubert.compat.experts import expert_device

        expert_device.restore(module)


def _restore_sampling_of_sets(module) -> None:
    """Let s3prl's SWS 2013 draw recordings with today's Python."""
    with _Warned("let s3prl draw recordings of SWS 2013"):
        from s3prl_melhubert.compat.experts import corpora

        corpora.let_sets_be_sampled(module)


def _restore_numbers_of_judges(module) -> None:
    """Let s3prl's MOS prediction read its corpus with today's pandas."""
    with _Warned("let s3prl number the judges of VCC 2018"):
        from s3prl_melhubert.compat.experts import corpora

        corpora.let_judges_be_numbered(module)


def _restore_names_of_files(module) -> None:
    """Let s3prl's speaker identification by frames take the batches that it gets."""
    with _Warned("let s3prl identify the speakers of frames"):
        from s3prl_melhubert.compat.experts import corpora

        corpora.let_names_be_passed(module)


def _restore_iteritems(module) -> None:
    """Let the corpora of s3prl-main be read with today's pandas."""
    with _Warned("let s3prl read a corpus' table"):
        from s3prl_melhubert.compat import restorations

        restorations.restore_iteritems()


def _stand_in(fullname):
    """Return the spec of our module for one that this s3prl lacks, or None if there is none."""
    with _Warned(f"stand in for {fullname}"):
        from importlib.util import spec_from_file_location

        from s3prl_melhubert import downstream_recipes

        path = os.path.join(downstream_recipes.__path__[0], _STAND_INS[fullname])
        folder, name = os.path.split(path)
        places = [folder] if name == "__init__.py" else None
        return spec_from_file_location(fullname, path, submodule_search_locations=places)
    return None


# The modules of a checkout that pip's s3prl lacks, and our files for them in downstream_recipes.
_STAND_INS = {
    "s3prl.downstream.ctc.corpus": "phone_recognition/corpus/__init__.py",
    "s3prl.downstream.ctc.corpus.common_voice": "phone_recognition/corpus/common_voice.py",
    "s3prl.downstream.ctc.corpus.librispeech": "phone_recognition/corpus/librispeech.py",
    "s3prl.downstream.ctc.corpus.libriphone": "phone_recognition/corpus/libriphone.py",
    "s3prl.downstream.ctc.corpus.snips": "slot_filling/snips_dataset.py",
}

# The upstreams of s3prl that import transformers, which takes longer than all else that s3prl.hub imports;
# and the one that warns every program that ESPnet is not installed.
_LATE_UPSTREAMS = (
    "s3prl.upstream.hf_hubert.expert",
    "s3prl.upstream.hf_wav2vec2.expert",
    "s3prl.upstream.espnet_hubert.expert",
)

# What is called with a module once it has been loaded.
_AFTER_LOADING = {
    "s3prl.hub": _register,
    "s3prl.optimizers": _allow_schedules,
    "s3prl.downstream.asr.expert": _restore_kenlm_decoding,
    "s3prl.downstream.asr.w2l_decoder": _restore_kenlm_decoding,
    "s3prl.downstream.atis.expert": _restore_device,
    "s3prl.downstream.audio_snips.expert": _restore_device,
    "s3prl.downstream.enhancement_stft.expert": _restore_device,
    "s3prl.downstream.enhancement_stft2.expert": _restore_device,
    "s3prl.downstream.quesst14_embedding.expert": _restore_device,
    "s3prl.downstream.separation_stft.expert": _restore_device,
    "s3prl.downstream.separation_stft2.expert": _restore_device,
    "s3prl.downstream.sv_voxceleb1.expert": _restore_device,
    "s3prl.downstream.sws2013.expert": _restore_device,
    "s3prl.downstream.voxceleb2_amsoftmax_segment_eval.expert": _restore_device,
    "s3prl.downstream.mos_prediction.dataset": _restore_numbers_of_judges,
    "s3prl.downstream.sws2013.sws2013_dataset": _restore_sampling_of_sets,
    "s3prl.downstream.voxceleb1_framelevel.expert": _restore_names_of_files,
    "s3prl.dataio.corpus.base": _restore_iteritems,
    "pretrain.runner": _allow_schedules,
}


class _Warned:
    """Have what fails in the block cause a warning, and nothing else.

    `contextlib` would have to be loaded at every start of the interpreter.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> bool:
        if not isinstance(error, Exception):
            return False
        _warn(self.what, error)
        return True


def _warn(what: str, error: Exception) -> None:
    """Warn in one line that something could not be done for s3prl."""
    import warnings

    message = (
        f"s3prl-melhubert could not {what} ({type(error).__name__}: {' '.join(str(error).split())}); "
        f"`melhubert doctor` looks for the cause, {AUTOLOAD}=0 turns this off"
    )
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # Under -W error, raising would break an import that can succeed.
        print(message, file=sys.stderr)
