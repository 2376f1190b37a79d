"""docker/Dockerfile.cuda and compose.cuda.yaml without Docker: what they have in common with the image that is tested, and what the CUDA
module asks for."""
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

import harness
from harness import ROOT

sys.path.insert(0, str(ROOT / "tests/tools"))
import dockerfile  # noqa: E402

MODULE = pathlib.Path(harness.BINARY).parent.parent / "kernels/cuda/qttt-cuda.so"


@pytest.fixture(scope="module")
def plain():
    return dockerfile.parse()


@pytest.fixture(scope="module")
def cuda():
    return dockerfile.parse((ROOT / "docker/Dockerfile.cuda").read_text())


def test_it_is_the_other_image_and_cuda(plain, cuda):
    toolkit, build, last = cuda
    assert re.fullmatch(r"nvidia/cuda:13\.0\.\d+-devel-ubuntu24\.04", toolkit.image) and not toolkit.steps
    assert build.image == plain[0].image and last.image == plain[1].image
    assert set(build.packages()) - set(plain[0].packages()) == {"g++"} and set(plain[0].packages()) < set(build.packages())
    assert set(last.packages()) - set(plain[1].packages()) == {"libstdc++6"} and set(plain[1].packages()) < set(last.packages())
    for instruction in ("VOLUME", "USER", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT"):
        assert last.last(instruction) == plain[1].last(instruction), instruction
    order = [what for what, _ in last.steps]
    assert order.index("USER") > max(i for i, what in enumerate(order) if what in ("RUN", "COPY"))
    made = " ".join(last.all("RUN"))
    assert "useradd --system" in made and "ldconfig" in made and "-m 0700 /var/lib/qttt" in made


def test_the_module_is_insisted_on(cuda):
    build, last = cuda[1:]
    assert "-Dcuda=enabled" in " ".join(build.all("RUN"))
    assert "COPY" in dict(build.steps) and any("/usr/local/cuda-13.0/ /usr/local/cuda/" in c for c in build.all("COPY"))
    env = " ".join(last.all("ENV"))
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in env and "NVIDIA_VISIBLE_DEVICES=all" in env
    words = dockerfile.command(last.last("CMD"))
    assert words[-2:] == ["--device", "cuda"]
    r = subprocess.run([harness.BINARY, words[0], "--help"], capture_output=True, text=True)
    assert r.returncode == 0 and all(flag in r.stdout for flag in words if flag.startswith("--"))


def test_every_library_of_the_module_is_in_the_image(cuda):
    if not MODULE.exists() or not shutil.which("readelf"):
        pytest.skip("the CUDA module was not built here, or there is no readelf")
    last = cuda[2]
    asked = set(re.findall(r"\(NEEDED\).*\[(.*)\]", subprocess.run(["readelf", "-d", MODULE], capture_output=True, text=True).stdout))
    assert {"libcudart.so.13", "libcublas.so.13"} <= asked
    copied = {pathlib.Path(word).name.rstrip("*") for c in last.all("COPY") for word in c.split() if ".so." in word}
    packages = {"libgomp.so.1": "libgomp1", "libstdc++.so.6": "libstdc++6"}
    system = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1", "ld-linux-x86-64.so.2"}
    missing = {name for name in asked - copied - system if packages.get(name) not in last.packages()}
    assert not missing, missing
    assert "libcublasLt.so.13" in copied  # cuBLAS's own


def test_what_is_not_sent_to_docker():
    assert (ROOT / "docker/Dockerfile.cuda.dockerignore").read_text() == (ROOT / "docker/Dockerfile.dockerignore").read_text()


def test_compose_gives_each_server_a_gpu():
    base = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    cuda = yaml.safe_load((ROOT / "docker/compose.cuda.yaml").read_text())["services"]
    assert set(cuda) == {"qttt-1", "qttt-2"} <= set(base)
    seen = []
    for service in cuda.values():
        assert (ROOT / service["build"]["dockerfile"]).exists() and service["image"] == "qttt-cuda"
        device, = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
        seen += device["device_ids"]
    assert seen == ["0", "1"]
