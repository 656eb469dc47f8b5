"""Reading files of tensors (torch's and safetensors) as data: nothing in them runs, and all of it is proved.

A file from outside is data until it has been checked. Before anything is built from it: its sizes are held
against the file's own size, so that no file makes the reader allocate more than a few times its length; its
checksums are computed (zip's own for torch's files, a SHA-256 in the metadata for safetensors); and its
pickle may name harmless classes alone (`weights_only`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import re
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s3prl_melhubert.errors import MelHuBERTError, said
from s3prl_melhubert.support.files import suffix_of


class _Unread:
    """What stands for an array of numpy's in a file: whatever it is made of, nothing is made of it."""

    def __init__(self, *made_of: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Published checkpoints hold the trainer's command line.
ALLOWED_GLOBALS: list[Any] = [argparse.Namespace]
# Those of weight-pruned models hold the states of random generators, too, numpy's among them. Its own
# functions would make an array of any size that a file asks for.
RANDOM_STATE = "RandomState"
ARRAYS = [
    type(name, (_Unread,), {"__module__": module})
    for module, name in (
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "_reconstruct"),  # before numpy 2
        ("_codecs", "encode"),  # of an array's bytes, which torch 2.4 does not know; others have their own
    )
]

# The pickle of a checkpoint holds names, shapes and settings; the numbers lie beside it.
MAX_PICKLE = 64 * 1024**2  # bytes
PIECE = 1 << 20  # bytes that are read at once
# An .onnx file is a message of protobuf's that begins with its version, one byte after b"\x08". The next
# field is the name of the program that wrote it, or the graph.
ONNX_FIELDS = (b"\x12", b"\x3a")
ARCHIVE = b"PK\x03\x04"  # how a file of torch's begins; of a torch before 1.6, it is a bare pickle
# What zipfile raises for one that is damaged.
ARCHIVE_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
)
# What torch may make of a file, and which warnings are shown, is set for all threads of a process at once.
# A file that is trusted may read another one.
READING = threading.RLock()
# Archives that were found whole, as they were then: a program of s3prl's reads its checkpoint several times.
_whole: set[tuple[int, int, int, int]] = set()
HASH_KEY = "SHA256"  # of a .safetensors file's metadata: the hash of everything else in the file


def named_safetensors(path: str | Path) -> bool:
    """Whether a name asks for the safetensors format, in which a file of that name is then written."""
    return suffix_of(path) == ".safetensors"


def named_onnx(path: str | Path) -> bool:
    """Whether a name asks for an .onnx file."""
    return suffix_of(path) == ".onnx"


def refuse_onnx(path: str | Path) -> None:
    """Refuse to give a checkpoint a name by which everybody takes it for an ONNX program.

    Raises:
        MelHuBERTError: the name ends in .onnx.
    """
    if named_onnx(path):
        checkpoint = Path(path).with_suffix(".ckpt")
        raise MelHuBERTError(
            f"{path}: a checkpoint is to be written, which is no ONNX program; give {checkpoint}, and make "
            f"the program of that with: melhubert convert {checkpoint} {path}"
        )


def is_safetensors(path: str | Path) -> bool:
    """Whether a file is in the safetensors format, by its content (an existing file) or else its name."""
    path = Path(path)
    if not path.is_file():
        return named_safetensors(path)
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{"


def read_torch_file(path: Path, trust: bool = False) -> Any:
    """What `torch.save` wrote, with its checksums verified.

    Args:
        path: the file, a zip archive or a bare pickle of an older torch.
        trust: run code that the pickle may hold, for a file whose source is trusted.

    Raises:
        MelHuBERTError: the file is damaged, is an ONNX program, or needs code that is not to be run.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if head == ARCHIVE:
        _verify_archive(path)
    if head[:1] == b"\x08" and head[2:3] in ONNX_FIELDS:
        raise MelHuBERTError(
            f"{path}: is an ONNX program, for other runtimes, and no checkpoint; give the checkpoint that it "
            "was made from"
        )
    try:
        with READING, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice to whoever calls it on old formats
            if trust:
                return _run_pickle(path)
            known = torch.serialization.get_safe_globals()
            has_arrays = any(getattr(each, "__module__", "").startswith("numpy") for each in known)
            with allowed(ALLOWED_GLOBALS + ([] if has_arrays else ARRAYS)):
                content = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(content, dict):
                content.pop(RANDOM_STATE, None)
            if _holds_unread(content):
                raise _needs_code(path, "numpy._core.multiarray._reconstruct")
            return content
    except MelHuBERTError:
        raise
    except pickle.UnpicklingError as error:
        # torch's message runs over a page; what it would have had to import is named in it.
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not (needed or head[:1] == b"\x80"):
            raise unreadable(path, error) from None
        what = needed.group(1) if needed else "what, cannot be checked"
        raise _needs_code(path, what) from None
    except Exception as error:  # whatever torch's reader makes of a damaged file
        raise unreadable(path, error) from None


@contextmanager
def allowed(classes: Sequence[Any]) -> Iterator[None]:
    """Let `torch.load` read some classes as data while the block runs, in all threads.

    torch's own context manager, which torch 2.4 does not have, would at its end also forbid those among them
    that the program had allowed before.
    """
    with READING:
        new = [each for each in classes if each not in torch.serialization.get_safe_globals()]
        torch.serialization.add_safe_globals(new)
        try:
            yield
        finally:
            others = [each for each in torch.serialization.get_safe_globals() if each not in new]
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(others)


def _needs_code(path: Path, what: str) -> MelHuBERTError:
    return MelHuBERTError(
        f"{path}: refused, because reading it would run code from the file ({what}); if you trust where "
        f"it comes from, rewrite it with: melhubert convert --trust {path} OUT.ckpt"
    )


def _holds_unread(content: Any) -> bool:
    """Whether an array of numpy's is anywhere in a file's content, which may hold itself."""
    seen, left = set(), [content]
    while left:
        value = left.pop()
        if isinstance(value, _Unread) or (isinstance(value, type) and issubclass(value, _Unread)):
            return True
        if isinstance(value, dict | list | tuple | set | argparse.Namespace) and id(value) not in seen:
            seen.add(id(value))
            inside = vars(value) if isinstance(value, argparse.Namespace) else value
            left.extend(inside)
            if isinstance(inside, dict):
                left.extend(inside.values())
    return False


def _verify_archive(path: Path) -> None:
    """Hold a zip archive's sizes against the file's, and its entries against their checksums."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if len(set(names)) < len(names):
                raise zipfile.BadZipFile("two entries of one name")
            for entry in entries:
                # torch writes its entries as they are; a compressed one can unfold to any size.
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                    raise zipfile.BadZipFile(f"{entry.filename} is compressed, which torch never writes")
                if entry.flag_bits & 1:
                    raise zipfile.BadZipFile(f"{entry.filename} is encrypted")
                if entry.filename.endswith("data.pkl") and entry.file_size > MAX_PICKLE:
                    raise zipfile.BadZipFile(f"{entry.filename} has {entry.file_size} bytes")
            # Python's reader shifts all offsets where something stands before the archive; torch's does not.
            if archive.comment or min((entry.header_offset for entry in entries), default=0) != 0:
                raise zipfile.BadZipFile("something stands before its entries or after its directory")
            if sum(entry.file_size for entry in entries) > size:
                raise zipfile.BadZipFile("its entries claim more bytes than the file has")
            for entry in entries:
                with archive.open(entry) as file:
                    while file.read(PIECE):  # the end of an entry is where its checksum is compared
                        pass
    except ARCHIVE_FAULTS as error:
        raise unreadable(path, error) from None


def damage_in(path: str | os.PathLike[Any]) -> str | None:
    """What is damaged in a file that `torch.save` wrote, by its checksums, which `torch.load` passes over.

    An archive is read once for as long as it stays as it is.

    Returns:
        None where nothing is, or where the file is no archive, and so has no checksums.

    Raises:
        OSError: there is no such file, or it cannot be opened.
    """
    with open(path, "rb") as file:
        if file.read(len(ARCHIVE)) != ARCHIVE:
            return None
        status = os.fstat(file.fileno())
        as_it_is = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if as_it_is in _whole:
            return None
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except ARCHIVE_FAULTS as error:
            return said(error)
    if damaged is None:
        _whole.add(as_it_is)
    return damaged and f"the checksum of {damaged} in it differs"


def check_without_code(path: Path, where: str) -> None:
    """That a file of torch's, just written, can be read again as data; of a torch before 2.6, nobody can say.

    Raises:
        MelHuBERTError: it names classes that reading would have to import; the message begins with `where`.
    """
    find = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
    if find is None:
        return
    unsafe = {*find(path)} - {f"{each.__module__}.{each.__qualname__}" for each in ALLOWED_GLOBALS}
    if unsafe:
        raise MelHuBERTError(
            f"{where}: not written, because reading it would run code ({', '.join(sorted(unsafe))}); give "
            "tensors and Python's own numbers, strings, lists and dicts"
        )


def _run_pickle(path: Path) -> Any:
    """Read a file with the code that it holds, which may fail in any way."""
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except ImportError as error:
        raise MelHuBERTError(
            f"{path}: its code needs the module {error.name or error}, which cannot be imported; install "
            "what the file was written with"
        ) from None


def unreadable(path: Path, error: Exception) -> MelHuBERTError:
    """The error of a damaged file, with what its reader said first."""
    # The first sentence; torch's own messages go on about its settings and where to file a bug.
    reason = said(error).partition(". ")[0]
    return MelHuBERTError(
        f"{path}: damaged or not a checkpoint ({path.stat().st_size} bytes; {reason}); copy or fetch it again"
    )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file and its metadata, without the hash, which is verified.

    A file without a hash, as other programs write it, is read as it is.

    Raises:
        MelHuBERTError: the file is damaged, or is not what was written.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except Exception as error:  # the library's own class, which is no OSError, and others
        raise unreadable(path, error) from None
    expected = metadata.pop(HASH_KEY, None)
    if expected is not None and expected != content_hash(state, metadata):
        raise MelHuBERTError(
            f"{path}: its content is not what was written (the SHA-256 in its metadata differs); copy or "
            "fetch it again"
        )
    return state, metadata


def write_safetensors(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata with a hash of both.

    The library's own `save_file` would put another file in the place of this one: closed to all but its
    owner, without the lock of the one that was there, and gone before anybody could ask whether the disk is
    full.
    """
    from safetensors.torch import save

    unshared: dict[str, Tensor] = {}
    places = set()  # The library refuses tensors that share their memory.
    for name, tensor in state.items():
        tensor = tensor.contiguous()
        place = tensor.untyped_storage().data_ptr()
        unshared[name] = tensor.clone() if place in places else tensor
        places.add(place)
    path.write_bytes(save(unshared, {**metadata, HASH_KEY: content_hash(unshared, metadata)}))


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, which are not copied."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


def content_hash(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of metadata and tensors, by name: what the file means, whatever order it has on the disk."""
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes_of(tensor.contiguous()))
    return digest.hexdigest()


def check_tensor(tensor: object, name: str, where: str, file_size: int) -> None:
    """That a tensor from a file holds weights: dense, floating point, in the file, and finite.

    Raises:
        MelHuBERTError: it does not; the message names `where` and the tensor.
    """
    if not isinstance(tensor, Tensor):
        raise MelHuBERTError(f"{where}: {name} is a {type(tensor).__name__}, expected a tensor")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        raise MelHuBERTError(f"{where}: {name} is a sparse, quantized or empty tensor, expected a dense one")
    # Numbers of 8 bits are no weights without their scales, which no checkpoint of MelHuBERT has.
    if not tensor.is_floating_point() or tensor.element_size() < 2:
        raise MelHuBERTError(
            f"{where}: {name} holds {tensor.dtype} values, expected floating-point ones of 16 bits or more"
        )
    if tensor.numel() * tensor.element_size() > file_size:
        raise MelHuBERTError(f"{where}: {name} claims shape {tuple(tensor.shape)}, more than the file holds")
    if not torch.isfinite(tensor).all():
        raise MelHuBERTError(
            f"{where}: {name} holds NaN or infinite values; the training failed, or the file is damaged"
        )
