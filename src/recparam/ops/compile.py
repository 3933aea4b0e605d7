"""C that is compiled at first use, kept in a cache directory and loaded by ctypes; nothing happens on import."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd.forward_ad import unpack_dual
from torch.nn import Parameter
from torch.utils._python_dispatch import _get_current_dispatch_mode  # pyright: ignore[reportPrivateUsage]

from recparam.utils.storage import replacing

VECTORS = Path(__file__).parent / "vectors.h"  # what the C of this package is written with
_FLAGS = ("-O3", "-fno-math-errno", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread")


def build(source: Path, *headers: Path) -> tuple[ctypes.CDLL | None, str]:
    """Compile and load a C source.

    Args:
        source: The C file.
        headers: All headers of this package that it includes; they are found by name, wherever they are.

    Returns:
        The library and an empty text, or None and the reason why it could not be made.
    """
    compiler = os.environ.get("CC") or next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
    if compiler is None:
        return None, "no C compiler found (tried $CC, cc, gcc, clang)"
    reason = ""
    for flags in (("-march=native", *_FLAGS), _FLAGS):  # some compilers do not know -march=native
        try:
            return ctypes.CDLL(str(_compiled([*shlex.split(compiler), *flags], source, headers))), ""
        except subprocess.CalledProcessError as error:
            reason = f"{compiler} failed: {error.stderr.strip()[-500:]}"
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            reason = f"{compiler} failed: {error}"
    return None, reason


def call(library: ctypes.CDLL, name: str, *arguments: Tensor | int | None) -> None:
    """Call a C function: tensors go as pointers and None as the null pointer. The caller keeps the tensors alive.

    Raises:
        MemoryError: The function returned other than zero.
    """
    converted = [
        ctypes.c_int(a) if isinstance(a, int) else ctypes.c_void_p(None if a is None else a.data_ptr())
        for a in arguments
    ]
    if getattr(library, name)(*converted):
        raise MemoryError(f"{name} could not allocate its buffers")


def readable(*tensors: Tensor) -> bool:
    """Say whether C may read tensors, since they have memory on the CPU and nobody needs to see the operations on it.

    It may not where they are traced, compiled, faked, batched, or have forward-mode tangents.
    """
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and _get_current_dispatch_mode() is None
        and not peek_interpreter_stack()
        and all(type(each) in (Tensor, Parameter) and each.device.type == "cpu" for each in tensors)
        and all(unpack_dual(each).tangent is None for each in tensors)
    )


def _compiled(command: list[str], source: Path, headers: tuple[Path, ...]) -> Path:
    """Path of the shared library that `command` makes of the source, from the cache if it was made before."""
    texts = [file.read_text() for file in (source, *headers)]
    key = hashlib.sha256("\0".join([*texts, *command, platform.platform(), _processor()]).encode()).hexdigest()
    path = _cache() / f"{source.stem}-{key[:32]}.so"
    if path.exists():
        return path
    folders = sorted({f"-I{header.parent}" for header in headers})
    with replacing(path) as made:  # whole or not at all, whoever else compiles at the same time
        command = [*command, *folders, str(source), "-o", str(made), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return path


def _cache() -> Path:
    """Directory that only this user writes; a fresh temporary one if the home directory is read-only."""
    base = os.environ.get("XDG_CACHE_HOME")
    path = (Path(base) if base else Path("~/.cache").expanduser()) / "recparam"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="recparam-"))


def _processor() -> str:
    """What distinguishes processors that share a home directory, for -march=native."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.node()
    return "".join(next((line for line in lines if line.startswith(k)), "") for k in ("model name", "flags"))
