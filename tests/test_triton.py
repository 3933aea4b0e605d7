"""The kernel in Triton against a dense double-precision version: on a GPU, or in Triton's interpreter.

The interpreter is chosen when triton is first imported, so without a GPU these tests run in a process of their own.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from recparam.ops import (
    DotProduct,
    GaussianDensity,
    SquaredDistance,
    blocked,
    engines,
    pairwise_infonce,
    pairwise_logsumexp,
)
from recparam.ops.logits import Logits, Swept

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
HERE = INTERPRETED or torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETED or not HERE else "cuda"
ALL = (True, True, True)
VALUE = 3e-6  # nats, of values of a few nats
GRADIENT = {torch.float32: 2e-6, torch.bfloat16: 5e-3, torch.float16: 6e-4}  # half: its rounding of a probability

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="the package triton is missing: pip install 'recparam[triton]'"
)


def test_triton_is_imported_when_it_is_used_and_not_before() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"  # an import of it would fail
        "import torch, recparam; from recparam.ops import DotProduct, pairwise_infonce as f\n"
        "z = torch.eye(2); print(f(DotProduct(), z, z).shape)\n"
        "try: f(DotProduct(), z, z, implementation='triton')\n"
        "except ValueError as error: print(error)"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment()
    )
    assert out.returncode == 0, out.stderr
    assert "torch.Size([2])" in out.stdout and "pip install 'recparam[triton]'" in out.stdout


def test_the_engine_follows_the_device_and_names_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(engines, "find_spec", lambda name: object())
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    assert engines.choose("auto", gpu) is engines.choose("triton", gpu) is engines.TRITON
    assert engines.choose("auto", cpu) is not engines.TRITON and engines.choose("blocked", gpu) is engines.BLOCKED
    with pytest.raises(ValueError, match="Expected CUDA tensors for implementation='triton'; got cpu"):
        engines.choose("triton", cpu)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert engines.choose("auto", gpu) is not engines.TRITON


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(HERE, reason="the tests of the kernels run in this process")
def test_the_kernels_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", "-p", "no:cacheprovider", __file__]
    out = subprocess.run(command, capture_output=True, text=True, env=environment(TRITON_INTERPRET="1"))
    assert out.returncode == 0, out.stdout + out.stderr


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("width", [3, 130, 512])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_kernels_compile_without_a_gpu(
    dtype: torch.dtype, width: int, capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from recparam.ops import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    names = "_totals_kernel", "_panel_kernel", "_product_kernel"
    kernels = [Compiling(getattr(triton_kernels, name), capability) for name in names]
    for name, kernel in zip(names, kernels, strict=True):
        monkeypatch.setattr(triton_kernels, name, kernel)
    monkeypatch.setattr(triton_kernels, "_on", lambda device: torch.no_grad())
    triton_kernels.sweep(question(dtype, 150, 300, width, bias=True, own="all").logits(torch.device("cpu")), ALL)
    assert [len(kernel.shared) for kernel in kernels] == [1, 1, 2]  # products with either side
    assert all(shared <= 99 * 1024 for kernel in kernels for shared in kernel.shared)  # of the smaller processors


@needs_triton
@pytest.mark.slow
class TestKernels:
    __test__ = HERE

    @pytest.fixture(autouse=True)
    def small_panels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from recparam.ops import triton_kernels

        monkeypatch.setattr(triton_kernels, "_PANEL", (128, 128))

    @pytest.mark.parametrize("keep_own", [True, False])
    @pytest.mark.parametrize("own", ["none", "some", "all", "contrast"])
    @pytest.mark.parametrize("width", [3, 16, 130])
    @pytest.mark.parametrize("dtype", GRADIENT)
    def test_value_and_gradients(self, dtype: torch.dtype, width: int, own: str, keep_own: bool) -> None:
        asked = question(dtype, 70, 135, width, bias=own in ("some", "contrast"), own=own, keep_own=keep_own)
        compare(asked, dtype)

    @pytest.mark.parametrize("dtype", GRADIENT)
    @pytest.mark.parametrize("sizes", [(1, 1), (1, 300), (300, 1), (129, 257), (64, 128)])
    def test_sizes(self, sizes: tuple[int, int], dtype: torch.dtype) -> None:
        n, m = sizes
        compare(question(dtype, n, m, 5, bias=True, own="none" if n > m else "all"), dtype)

    @pytest.mark.parametrize("need", [(True, False, False), (False, True, False), (False, False, True)])
    def test_only_what_is_needed(self, need: tuple[bool, bool, bool]) -> None:
        logits = question(torch.bfloat16, 20, 30, 3, bias=True, own="all").logits(torch.device(DEVICE))
        every, one = sweep(logits, ALL).gradients, sweep(logits, need).gradients
        assert every is not None and one is not None
        for wanted, part, full in zip(need, one, every, strict=True):
            assert torch.equal(part, full) if wanted else part is None
        assert sweep(logits, None).gradients is None

    @pytest.mark.parametrize("contrast", [True, False])
    def test_nearly_solved(self, contrast: bool) -> None:
        rows = (torch.nn.functional.normalize(torch.randn(100, 128), dim=1) * 7).to(torch.bfloat16)
        asked = question(torch.bfloat16, 100, 100, 128, own="contrast" if contrast else "all")
        asked.rows, asked.columns, asked.own = rows, rows.clone(), torch.arange(100)
        others = (rows.float() @ rows.float().T).fill_diagonal_(-torch.inf)
        assert float((rows.float().square().sum(1) - others.amax(1)).min()) > 25
        compare(asked, torch.bfloat16)

    @pytest.mark.parametrize("dtype", GRADIENT)
    def test_large_scores_stay_finite(self, dtype: torch.dtype) -> None:
        asked = question(dtype, 40, 50, 3, own="contrast")
        asked.rows, asked.columns = (asked.rows * 60).to(dtype), (asked.columns * 60).to(dtype)
        swept = sweep(asked.logits(torch.device(DEVICE)), ALL)
        value, _ = dense(asked, torch.ones(40))
        assert float(value.abs().max()) > 5e3
        assert float((swept.out.cpu().double() - value).abs().max()) < 5e-3
        assert swept.gradients is not None
        assert all(bool(torch.isfinite(part).all()) for part in swept.gradients if part is not None)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    def test_masks_and_double_precision_are_answered_by_the_plain_version(self, dtype: torch.dtype) -> None:
        logits = question(dtype, 20, 30, 3, bias=True, own="all").logits(torch.device(DEVICE))
        if dtype != torch.float64:
            mask = torch.rand(20, 30, device=DEVICE) < 0.3
            logits = Logits(*(getattr(logits, name) for name in ("rows", "columns", "bias", "own")), True, False,
                            lambda rows: mask[rows])  # fmt: skip
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        plain = Logits(logits.rows.to(precise), logits.columns.to(precise), logits.bias.to(precise), logits.own,
                       excluded=logits.excluded)  # fmt: skip
        got, expected = sweep(logits, ALL), blocked.sweep(plain, ALL)
        tolerance = 1e-13 if dtype == torch.float64 else 1e-6  # a product's last bit depends on where its tensors lie
        assert got.out.dtype == precise and relative(got.out, expected.out) < tolerance
        assert got.gradients is not None and expected.gradients is not None
        for pair in zip(got.gradients, expected.gradients, strict=True):
            assert relative(*pair) < tolerance

    @pytest.mark.parametrize("dtype", GRADIENT)
    @pytest.mark.parametrize("name", ["dot", "cosine", "distance", "density"])
    def test_public_functions(self, name: str, dtype: torch.dtype) -> None:
        z, bank = torch.randn(30, 4).to(dtype), torch.randn(50, 4).to(dtype)
        if name == "density":
            bank = torch.cat([bank, 0.5 + bank.abs()], 1)
        weights = torch.randn(50)
        found: list[list[Tensor]] = []
        for implementation, kind, device in (("triton", dtype, DEVICE), ("dense", torch.float64, "cpu")):
            score = {
                "dot": DotProduct(),
                "cosine": DotProduct(normalise=True, scale=torch.tensor(5.0, device=device)),
                "distance": SquaredDistance(torch.tensor(1.5, device=device)),
                "density": GaussianDensity(),
            }[name]
            left, right = (side.to(device, kind).requires_grad_() for side in (z, bank))
            options: dict[str, Any] = dict(log_weights=weights.to(device, kind), implementation=implementation)
            contrast = pairwise_infonce(score, left, right, **options)
            total = pairwise_logsumexp(score, left, right, **options)
            equal = torch.autograd.grad(contrast.mean(), [left, right])
            upstream = torch.linspace(-1, 1, 30, device=device).to(kind)
            others = torch.autograd.grad((total * upstream).sum(), [left, right])
            found.append([part.detach().cpu() for part in (contrast, total, *equal, *others)])
            assert all(part.dtype == kind for part in found[-1])
        # In half precision the values are rounded to it too, and the sum that is subtracted from them.
        tolerance = {torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
        assert [relative(*pair) < tolerance for pair in zip(*found, strict=True)] == [True] * 6


class Question:
    """Logits whose tensors have left the device, with the dense answer in reach."""

    def __init__(self, rows: Tensor, columns: Tensor, bias: Tensor | None, own: Tensor | None) -> None:
        self.rows, self.columns, self.bias, self.own = rows, columns, bias, own
        self.keep_own, self.contrast = True, False

    def logits(self, device: torch.device) -> Logits:
        parts = [None if t is None else t.to(device) for t in (self.rows, self.columns, self.bias, self.own)]
        assert parts[0] is not None and parts[1] is not None
        return Logits(parts[0], parts[1], parts[2], parts[3], self.keep_own, self.contrast)


def question(
    dtype: torch.dtype, n: int, m: int, width: int, *, own: str, bias: bool = False, keep_own: bool = True
) -> Question:
    """Random features that give scores of a few nats; every fourth row lacks an own column if own is "some"."""
    rows, columns = (torch.randn(size, width).mul(1.5 * width**-0.25).to(dtype) for size in (n, m))
    tensor = torch.randn(m, dtype=torch.promote_types(dtype, torch.float32)) if bias else None
    owned = None if own == "none" else torch.randperm(m)[:n] if n <= m else torch.randint(m, (n,))
    if tensor is not None and m > 2:
        tensor[m // 2] = -torch.inf
        if owned is not None and own == "contrast":
            owned[owned == m // 2] = 0
    if owned is not None and own == "some":
        owned[::4] = -1
    asked = Question(rows, columns, tensor, owned)
    asked.keep_own, asked.contrast = keep_own, own == "contrast"
    return asked


def dense(asked: Question, upstream: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """Values and gradients for upstream gradients, in double precision, by autograd through the whole matrix."""
    leaves = [None if t is None else t.double().requires_grad_() for t in (asked.rows, asked.columns, asked.bias)]
    rows, columns, bias = leaves
    assert rows is not None and columns is not None
    scores = rows @ columns.T
    scores = scores if bias is None else scores + bias
    if asked.own is None:
        value = torch.logsumexp(scores, 1)
    else:
        is_own = asked.own[:, None] == torch.arange(len(columns))
        others = torch.logsumexp(scores.masked_fill(is_own, -torch.inf), 1)
        if asked.contrast:
            own = torch.where(is_own, scores, 0).sum(1)
            # One minus a probability near one is beyond double precision too.
            value = -torch.nn.functional.softplus(others - own) if asked.keep_own else own - others
        else:
            value = torch.logsumexp(scores, 1) if asked.keep_own else others
    found = torch.autograd.grad(value, [leaf for leaf in leaves if leaf is not None], upstream.double())
    return value.detach(), [*found, *[None] * (3 - len(found))]


def compare(asked: Question, dtype: torch.dtype) -> None:
    """Hold a sweep, and gradients for unequal upstream gradients, to the dense version."""
    from recparam.ops import triton_kernels

    logits = asked.logits(torch.device(DEVICE))
    need = (True, True, asked.bias is not None)
    n, tolerance = len(asked.rows), GRADIENT[dtype]
    swept = sweep(logits, need)
    upstream = torch.linspace(-1, 2, n)
    uneven = triton_kernels.gradients(logits, upstream.to(DEVICE), need)
    for g, got in ((torch.ones(n), swept.gradients), (upstream, uneven)):
        value, expected = dense(asked, g)
        assert float((swept.out.cpu().double() - value).abs().max()) < VALUE * max(1, float(value.abs().max()))
        assert got is not None and [part is None for part in got] == [part is None for part in expected]
        for part, exact in zip(got, expected, strict=True):
            if part is not None and exact is not None:
                assert part.dtype == torch.float32 and part.shape == exact.shape
                assert relative(part.cpu(), exact) < tolerance


def relative(part: Tensor, exact: Tensor) -> float:
    """The error's norm by that of the exact value."""
    return float((part.double() - exact).norm() / exact.norm().clamp_min(1e-30))


def sweep(logits: Logits, need: tuple[bool, bool, bool] | None) -> Swept:
    from recparam.ops import triton_kernels

    return triton_kernels.sweep(logits, need)


def environment(**more: str) -> dict[str, str]:
    paths = [path for path in sys.path if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


class Compiling:
    """Stands for a kernel: a launch compiles it for what it is given, and runs nothing."""

    def __init__(self, kernel: Any, capability: int) -> None:
        self.kernel, self.capability, self.seen, self.shared = kernel, capability, set[str](), list[int]()

    def __getitem__(self, grid: object) -> "Compiling":
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages", "enable_fp_fusion")}
        names = self.kernel.arg_names
        given = dict(zip(names, args, strict=False)) | kwargs
        constants = {
            name
            for name, value in given.items()
            if name in kwargs or value is None or isinstance(value, int) and value == 1
        }
        types = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int64: "*i64"}
        signature = {
            name: "constexpr" if name in constants else types[value.dtype] if isinstance(value, Tensor) else "i32"
            for name, value in given.items()
        }
        aligned = {
            (names.index(name),): [["tt.divisibility", 16]]
            for name, value in given.items()
            if name not in constants and (isinstance(value, Tensor) or value % 16 == 0)
        }
        if str((signature, aligned)) in self.seen:
            return
        self.seen.add(str((signature, aligned)))
        source = ASTSource(self.kernel, signature, {(names.index(name),): given[name] for name in constants}, aligned)
        compiled = triton.compile(source, target=GPUTarget("cuda", self.capability, 32), options=options)
        self.shared.append(compiled.metadata.shared)
