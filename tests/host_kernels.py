"""The CUDA kernels' own text as programs of the host, under sanitizers, and how to run them: no GPU is needed to test
their logic."""

import functools
import re
import shutil
import struct
import subprocess
from pathlib import Path

import torch
from conftest import ROOT
from shared_builds import built

DRIVERS = ROOT / "tests/cuda_on_host"
KERNELS = {"cam": "cam_kernel.cuh", "overlay": "overlay_kernel.cuh"}
SANITIZERS = {"memory": "address,undefined", "races": "thread"}
RULES = ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "elementwise"]
TYPES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}

# A barrier over a block, one over a cluster, or the two halves of one over a cluster.
BARRIER = re.compile(r"(?P<whole>__syncthreads|cluster::sync)\(\);|(?P<half>cluster::(?:arrive|wait))\(\);")


def number_barriers(folder):
    """Every barrier of the kernels gets a number, by which a run can do without it. Returns where each one is."""
    places = []
    for path in sorted((folder / "cuda").glob("*.cuh")):
        if path.name == "cluster.cuh":  # the execution model has its own
            continue
        halves = []

        def number(match, path=path, halves=halves):
            if match["whole"] or not halves:
                line = path.read_text()[: match.start()].count("\n") + 1
                places.append(f"{path.name}:{line}")
            if match["half"]:
                halves.append(len(places) - 1)
            index = len(places) - 1 if match["whole"] else halves[0]
            return f"if (execution::lost != {index}) {match[0]}"

        path.write_text(BARRIER.sub(number, path.read_text()))
    return places


def count_barriers():
    texts = [p.read_text() for p in (ROOT / "csrc/cuda").glob("*.cuh") if p.name != "cluster.cuh"]
    found = [match for text in texts for match in BARRIER.finditer(text)]
    return sum(bool(match["whole"]) for match in found) + sum(match["half"] == "cluster::wait" for match in found)


class HostKernels:
    """Every driver under every sanitizer, each built when it is first asked for, and the place of every barrier."""

    def __init__(self, folder):
        """`folder` takes the kernels' sources with numbered barriers."""
        self._sources = folder / "csrc"
        shutil.copytree(ROOT / "csrc", self._sources)
        self.barriers = number_barriers(self._sources)
        self._built = {}

    def __getitem__(self, which):
        if which not in self._built:
            made_of = [ROOT / "csrc", DRIVERS, Path(__file__)]
            build = functools.partial(self._build, *which)
            self._built[which] = built(f"cuda_on_host_{'_'.join(which)}", made_of, build)
        return self._built[which]

    def _build(self, kernel, sanitizer, program):
        flags = [
            "-std=c++20",
            "-O1",
            "-g1",
            "-pthread",
            f"-fsanitize={SANITIZERS[sanitizer]}",
            "-fno-sanitize-recover=all",
        ]
        text = f'-DKERNEL="{self._sources / "cuda" / KERNELS[kernel]}"'
        done = subprocess.run(
            ["g++", *flags, text, str(DRIVERS / f"{kernel}_driver.cpp"), "-o", str(program)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[:4000]


class SanitizerError(Exception):
    """What a sanitizer says of a run."""


def execute(program, data, lost=None):
    command = [str(program), *([str(lost)] if lost is not None else [])]
    done = subprocess.run(command, input=data, capture_output=True, timeout=300)
    if done.returncode != 0:
        raise SanitizerError(f"exit {done.returncode}: {done.stderr.decode()[:2000]}")
    return bytearray(done.stdout)


def memory_of(tensor):
    """All of a tensor's storage, as bytes; bfloat16 has no numpy type."""
    if tensor is None:
        return b""
    count = tensor.untyped_storage().nbytes()
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage(), 0, (count,)).numpy().tobytes()


def run_cam(
    program,
    activations,
    gradients=None,
    weights=None,
    *,
    rule="gradcam",
    size,
    threads=64,
    cluster=1,
    shares=None,
    shared=True,
    relu=True,
    normalize=True,
    lost=None,
):
    """One launch; `cluster` blocks share the channels of a sample, `shares` blocks (a multiple of it) its rows."""
    samples, channels, layer_height, layer_width = activations.shape
    maps = len(weights if gradients is None else gradients)
    accumulated = torch.float64 if activations.dtype == torch.float64 else torch.float32
    elements = [0 if t is None else t.untyped_storage().nbytes() // t.element_size() for t in (activations, gradients)]
    header = struct.pack(
        "27q",
        TYPES[activations.dtype],
        len(RULES) if gradients is None else RULES.index(rule),
        *(maps, maps // samples, channels, layer_height, layer_width, *size),
        *activations.stride(),
        *((0,) * 4 if gradients is None else gradients.stride()),
        *(*elements, 0 if weights is None else weights.numel()),
        activations.storage_offset(),
        *(threads, cluster, shares or cluster, shared, relu, normalize),
    )
    out = execute(program, header + b"".join(map(memory_of, (activations, gradients, weights))), lost)
    values = torch.frombuffer(out, dtype=accumulated)
    return values[: -2 * maps].view(maps, *size), values[-2 * maps :].view(maps, 2)


def laid_out(tensor, layout):
    if layout == "channels_last":
        return tensor.to(memory_format=torch.channels_last)
    if layout == "transposed":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "expanded":
        return tensor[:, :, :1, :].contiguous().expand(tensor.shape)
    if layout == "sliced":  # rows with gaps, at an offset
        larger = tensor.new_full((len(tensor), tensor.shape[1] + 1, tensor.shape[2], tensor.shape[3] + 3), 7.0)
        view = larger[:, 1:, :, 2:-1]
        view.copy_(tensor)
        return view
    if layout == "off by one":  # gapless, but no vector is aligned
        larger = tensor.new_empty(tensor.numel() + 1)
        view = larger[1:].view(tensor.shape)
        view.copy_(tensor)
        return view
    return tensor.contiguous()


def overlay_data(call, planes, maps, colors, ranges, *, in_place, region, alpha, normalize, threads, shares, frame):
    """A case as overlay_driver.cpp reads it; planes are [N, H, W] views, in one storage or each in its own."""
    opacity = round(alpha * 16384)
    addresses = [plane.untyped_storage().data_ptr() for plane in planes]
    memories = [addresses.index(address) for address in addresses]
    sizes = [p.untyped_storage().nbytes() if memories[i] == i else 0 for i, p in enumerate(planes)]
    header = struct.pack(
        "38q",
        *(call == "yuv420", in_place, len(maps), *frame, *region),
        *(*maps.shape[1:], *maps.stride(), maps.untyped_storage().nbytes() // 4),
        *(opacity, ranges is not None, normalize, threads, shares),
        *(n for memory, p in zip(memories, planes, strict=True) for n in (memory, p.storage_offset(), *p.stride())),
        *sizes,
    )
    data = [memory_of(plane) for plane, size in zip(planes, sizes, strict=True) if size]
    return b"".join([header, memory_of(maps), memory_of(colors), memory_of(ranges), *data]), memories, sizes


def run_overlay(program, call, planes, maps, colors, ranges=None, *, lost=None, **options):
    """The planes afterwards, seen through views like the given ones, and the memory of each of them."""
    options = {"in_place": True, "normalize": False, "threads": 32, "shares": 2, **options}
    data, which, sizes = overlay_data(call, planes, maps, colors, ranges, **options)
    out = torch.frombuffer(execute(program, data, lost), dtype=torch.uint8)
    memories = [part.clone() for part in out.split(sizes)]  # so that offsets count from their own beginning
    views = [
        memories[i].as_strided(p.shape, p.stride(), p.storage_offset()) for i, p in zip(which, planes, strict=True)
    ]
    return views, memories


def frames_in(layout, samples, height, width):
    """Random frames [N, H, W, 3] in one of the layouts that the kernel tells apart, within larger random memory."""

    def memory(*shape):
        return torch.randint(0, 256, shape, dtype=torch.uint8)

    if layout == "packed":
        return memory(samples, height, width, 3)
    if layout == "planar":
        return memory(samples, 3, height, width).permute(0, 2, 3, 1)
    if layout == "four channels":
        return memory(samples, height, width, 4)[..., :3]
    if layout == "backwards":  # blue first
        return memory(samples, 3, height, width + 1)[..., 1:].permute(0, 2, 3, 1)
    assert layout == "cropped"
    return memory(samples, height + 2, width + 5, 3)[:, 1:-1, 3:-2]
