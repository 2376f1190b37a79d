"""docker/Dockerfile without Docker: its packages against the binary, its health check against a server, its text against what it
must say. The whole of its steps, in fresh Debian folders, are `make image-test`."""
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import harness
from harness import ROOT, Server

sys.path.insert(0, str(ROOT / "tests/tools"))
import dockerfile  # noqa: E402

# Every Debian has these; the compiler's own runtime in a build of clang is not what the image is built with.
ALWAYS = {"libc6", "libgcc-s1"}
CLANG = ("libomp", "libasan", "libtsan", "libubsan", "libclang_rt")


@pytest.fixture(scope="module")
def stages():
    return dockerfile.parse()


def test_two_stages_and_the_second_has_no_compiler(stages):
    assert len(stages) == 2 and stages[0].name == "build" and stages[1].name is None
    assert not {p for p in stages[1].packages() if p.endswith("-dev") or p in ("gcc", "meson", "ninja-build", "pkg-config")}
    with pytest.raises(ValueError):
        dockerfile.parse("FROM x\nADD y z\n")


def needed(binary):
    """Names of the libraries that a program asks for itself, and where they are found."""
    asked = re.findall(r"\(NEEDED\).*\[(.*)\]", subprocess.run(["readelf", "-d", binary], capture_output=True, text=True).stdout)
    found = dict(re.findall(r"^\s*(\S+) => (/\S+)", subprocess.run(["ldd", binary], capture_output=True, text=True).stdout, re.M))
    assert "libuv.so.1" in asked
    return {name: found[name] for name in asked if name in found and not name.startswith(CLANG)}


def packages_of(paths):
    """Debian's packages of files; /lib and /usr/lib are one folder, and dpkg knows either name."""
    names = {}
    for path in paths:
        real = str(pathlib.Path(path).resolve())
        names.update({name: path for name in (path, real, real.removeprefix("/usr"), "/usr" + path)})
    out = subprocess.run(["dpkg", "-S", *names], capture_output=True, text=True).stdout  # says no for most names
    return {names[path]: package for package, path in re.findall(r"^([^:,\s]+)\S*: (\S+)$", out, re.M) if path in names}


def test_every_library_of_the_binary_is_installed_in_the_image(stages):
    if not shutil.which("dpkg") or not shutil.which("readelf"):
        pytest.skip("no dpkg or readelf here: packages cannot be looked up")
    libraries = needed(harness.BINARY)
    packages = packages_of(libraries.values())
    assert len(packages) > 6 and set(libraries.values()) == set(packages), set(libraries.values()) - set(packages)
    missing = {path: p for path, p in packages.items() if p not in set(stages[1].packages()) | ALWAYS}
    assert not missing, f"docker/Dockerfile does not install {missing}"


def test_nothing_is_installed_that_nobody_needs(stages):
    """By name: libfoo1 of the second stage goes with libfoo-dev of the first; libgomp1 with gcc."""
    def stem(package):
        return package.removesuffix("-dev").removeprefix("lib").rstrip("-0123456789.")
    dev = {stem(p) for p in stages[0].packages() if p.endswith("-dev") and p != "libc6-dev"}
    run = {stem(p) for p in stages[1].packages()} - {"gomp"}
    assert dev == run


def test_the_image_is_built_of_what_the_set_up_installs(stages):
    text = (ROOT / "tools/setup.sh").read_text()
    setup = set(re.search(r"^packages='([^']*)'", text, re.M).group(1).split())
    only_here = {"git", "ca-certificates", "python3", "python3-venv", "libcmocka-dev"}
    assert only_here < setup and set(stages[0].packages()) == setup - only_here


def test_the_image_runs_as_nobody_with_a_place_for_its_state(stages):
    last = stages[1]
    order = [what for what, _ in last.steps]
    volume, user = last.last("VOLUME"), last.last("USER")
    made = " ".join(last.all("RUN"))
    assert "useradd --system" in made and user in made and f"install -d -o {user} -g {user} -m 0700 {volume}" in made
    assert f"XDG_STATE_HOME={pathlib.Path(volume).parent}" in last.all("ENV") and pathlib.Path(volume).name == "qttt"
    assert order.index("VOLUME") > order.index("RUN") and order.index("USER") > order.index("COPY")
    assert last.last("EXPOSE") == "8080" and last.last("STOPSIGNAL") == "SIGTERM"
    assert dockerfile.command(last.last("ENTRYPOINT")) == ["/usr/bin/qttt"]
    r = subprocess.run([harness.BINARY, *dockerfile.command(last.last("CMD"))[:1], "--help"], capture_output=True, text=True)
    assert r.returncode == 0 and "--config" in r.stdout
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in last.last("LABEL")


def test_what_is_not_sent_to_docker(stages):
    ignored = (ROOT / "docker/Dockerfile.dockerignore").read_text().split()
    assert {"build*", "models", ".git"} <= set(ignored)


def test_the_health_check_follows_readyz(stages):
    """The very command, but for the port."""
    text = stages[1].last("HEALTHCHECK")
    assert all(option in text for option in ("--interval=", "--timeout=", "--start-period=", "--retries="))
    command = dockerfile.command(text)
    assert "8080" in command[-1]

    def check(port):
        return subprocess.run([*command[:-1], command[-1].replace("8080", str(port))], capture_output=True, timeout=30).returncode

    with Server(settings={"drain": {"delay_seconds": 20}}) as s:
        assert check(s.port) == 0
        s.process.terminate()
        s.wait_for("/readyz", 503)
        assert check(s.port) != 0
        s.process.terminate()
        s.process.wait(harness.LONG)
    assert check(s.port) != 0


def test_the_script_of_the_steps_says_why_it_cannot():
    r = subprocess.run([sys.executable, str(ROOT / "tests/tools/docker_steps.py")], env={"PATH": "/nowhere"}, capture_output=True, text=True)
    assert r.returncode == 77 and "skip: the image's steps cannot be run here: " in r.stdout, r
    assert r.stdout.endswith("0 passed, 0 failed, 1 skipped\n")
