"""A CUDA device that holds no numbers, for a PyTorch without CUDA.

What lies on the wrong device raises, and so does what reads a number from the device, because an update would wait
there. Tests run the real trainer and the real search on it, and a benchmark counts the launches and the traffic of an
update. It needs g++. `load_device` must be called before anything imports torch, so in a process of its own.
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

#: A PyTorch without CUDA has neither a guard for its devices nor hooks that say that there is one.
_SOURCE = """
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
static const c10::Device gpu(c10::DeviceType::CUDA, 0);
struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device exchangeDevice(c10::Device) const override { return gpu; }
  c10::Device getDevice() const override { return gpu; }
  c10::Stream getStream(c10::Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, gpu); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
namespace at { using ::CUDAHooks; REGISTER_CUDA_HOOKS(CUDAHooks); }
"""

#: Told of every operator of PyTorch (an OpOverload) and every Triton kernel (a JITFunction) on the device: what was
#: called, its tensors, and its results.
Observer = Callable[[Any, list[Any], list[Any]], None]


def load_device(folder: Path) -> None:
    """Compile the device into ``folder`` and load it between PyTorch's libraries and PyTorch itself."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    home = Path(spec.origin).parent
    (folder / "device.cpp").write_text(_SOURCE, encoding="utf-8")
    compiler = "g++ -std=c++20 -shared -fPIC device.cpp -o device.so -lc10 -ltorch_cpu".split()
    subprocess.run([*compiler, f"-I{home}/include", f"-L{home}/lib"], check=True, cwd=folder)
    for library in (home / "lib/libc10.so", home / "lib/libtorch_cpu.so", folder / "device.so"):
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


class FakeDevice:
    """What a test says of the device while it is there."""

    def __init__(self) -> None:
        #: Whether the caller may wait for the device: to read numbers, which are all 1, or to write some. Else it
        #: raises.
        self.may_be_read = False
        #: False while an operator is made up: FakeTensorMode would initialize a device that is available.
        self.is_available = True


@contextmanager
def fake_cuda(observe: Observer | None = None) -> Iterator[FakeDevice]:
    """Within it, a tensor on ``cuda`` has a shape, a dtype and a device, but no numbers; the CPU is real.

    Triton's kernels are not run: the devices of their arguments are checked.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves, tree_map_only
    from triton.runtime.jit import JITFunction

    device = FakeDevice()

    def tensors(values: Any) -> list[Any]:
        return [x for x in tree_leaves(values) if isinstance(x, torch.Tensor)]

    class FakeCuda(TorchDispatchMode):
        fake = FakeTensorMode(allow_non_fake_inputs=True)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            leaves = tree_leaves((args, kwargs or {}))
            if not any(isinstance(x, FakeTensor) or getattr(x, "type", "") == "cuda" for x in leaves):
                return func(*args, **(kwargs or {}))
            if func.namespace == "aten":  # without autograd, as in inference mode, composed operators come here whole
                with self:
                    parts = func.decompose(*args, **(kwargs or {}))
                if parts is not NotImplemented:
                    return parts
            if "index" in str(func):  # PyTorch copies them and waits
                on_cpu = [x for x in tensors(leaves) if not isinstance(x, FakeTensor) and x.dim()]
                assert not on_cpu, f"{func}: indices on the CPU"
            if func is torch.ops.aten.nonzero.default:
                assert device.may_be_read, "the size of a tensor depends on numbers, which waits for them"
                with self:
                    return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.long, device="cuda")
            if func is torch.ops.aten._local_scalar_dense.default and device.may_be_read:
                return torch.ones((), dtype=args[0].dtype).item()
            if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("device") == torch.device("cpu"):
                assert device.may_be_read, "a tensor is copied to the CPU, which waits for it"
                return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
            if func is torch.ops.aten._to_copy.default and not isinstance(args[0], FakeTensor):
                is_waited_for = not (kwargs or {}).get("non_blocking")
                assert device.may_be_read or not is_waited_for, "a tensor is copied from the CPU, which waits for it"
            device.is_available = False
            try:
                with self.fake:
                    result = func(*args, **(kwargs or {}))
            finally:
                device.is_available = True
            if observe is not None:
                observe(func, tensors(leaves), tensors(result))
            return result

    def launch(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        given = [x for x in (*args, *options.values()) if isinstance(x, torch.Tensor)]
        devices = {x.device.type for x in given}
        assert devices == {"cuda"}, f"{self.fn.__name__}: arguments on {devices}"
        if observe is not None:
            observe(self, given, [])

    save, load = torch.save, torch.load

    def save_from_device(content: Any, file: Any) -> None:
        save(tree_map_only(FakeTensor, lambda x: x.cpu(), content), file)

    def load_to_device(file: Any, *, map_location: Any, **options: Any) -> Any:
        content = load(file, map_location="cpu", **options)
        return tree_map_only(torch.Tensor, lambda x: x.to(map_location), content)

    def apply(module: Any, function: Callable[[Any], Any], recurse: bool = True) -> Any:
        # PyTorch would swap the contents of fake parameters, which others refer to.
        applied: dict[int, Any] = {}  # ties are kept
        for part in module.modules():
            for name, old in part._parameters.items():
                if old is not None and id(old) not in applied:
                    applied[id(old)] = torch.nn.Parameter(function(old.detach()), old.requires_grad)
                part._parameters[name] = old if old is None else applied[id(old)]
            for name, old in part._buffers.items():
                part._buffers[name] = function(old)
        return module

    def device_zero(*_: Any) -> int:
        return 0

    replaced: list[tuple[Any, str, Any]] = [
        (torch.cuda, name, device_zero)
        for name in ("_lazy_init", "_exchange_device", "_maybe_exchange_device", "current_device", "set_device")
    ]
    replaced += [
        (torch.cuda, "is_available", lambda: device.is_available),
        (torch.cuda, "device_count", lambda: 1),
        (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
        (torch.cuda, "get_device_name", lambda *_: "a device without numbers"),
        (torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(uuid="0", total_memory=80 << 30)),
        (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.Tensor, "pin_memory", lambda x: x),
        (torch.nn.Module, "_apply", apply),
        (torch, "save", save_from_device),
        (torch, "load", load_to_device),
        (JITFunction, "run", launch),
    ]
    with ExitStack() as stack:
        for target, name, value in replaced:
            stack.enter_context(mock.patch.object(target, name, value))
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device="cuda") reaches the mode as a copy
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        with FakeCuda():
            yield device
