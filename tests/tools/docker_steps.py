#!/usr/bin/env python3
"""Does what `docker build` and `docker run` would do with docker/Dockerfile, without Docker: every stage in a fresh Debian
folder (debootstrap, chroot), every instruction as the file says it. Then starts the image's command as its user, waits for the
image's health check, asks the server a question and stops it.

Needs root, debootstrap and a mirror; where one is missing it says which and skips. Some minutes, about 3 GB under --folder.
The last line is `N passed, N failed, N skipped`; a test is one instruction or one look at the running image.
"""
import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import dockerfile  # noqa: E402

ROOT = dockerfile.ROOT
SUITES = {"debian:12-slim": "bookworm"}


class CannotRun(Exception):
    pass


def run(args, **kw):
    r = subprocess.run([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if r.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, args))[:200]}: status {r.returncode}\n{r.stdout[-3000:]}")
    return r.stdout


def requirements():
    if os.getuid() != 0:
        raise CannotRun("chroot needs root")
    for tool in ("debootstrap", "chroot", "unshare"):
        if not shutil.which(tool):
            raise CannotRun(f"no {tool} here (apt-get install debootstrap)")
    r = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    if r.returncode != 0:
        raise CannotRun("no namespaces here: " + r.stderr.strip())


def base(folder, suite, mirror):
    """A minimal Debian, with this machine's way to its mirror."""
    try:
        run(["debootstrap", "--variant=minbase", suite, folder, mirror])
    except RuntimeError as e:
        raise CannotRun(f"debootstrap: {e}") from None
    for name in ("etc/apt/sources.list", "etc/apt/sources.list.d", "etc/apt/apt.conf", "etc/apt/apt.conf.d", "etc/apt/keyrings",
                 "etc/resolv.conf", "etc/ssl/certs", "usr/share/ca-certificates"):
        there = pathlib.Path("/") / name
        if there.is_dir():
            shutil.copytree(there, folder / name, dirs_exist_ok=True, symlinks=True)
        elif there.exists():
            shutil.copy(there, folder / name)


def inside(folder, env, user, shell):
    """The command that runs a line of shell in the folder, with a /proc and /dev of its own."""
    who = ["--userspec", f"{user}:{user}"] if user else []
    assign = [f"{k}={v}" for k, v in {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **env}.items()]
    mounts = f"mount -t proc proc '{folder}/proc' && mount --rbind /dev '{folder}/dev' && exec \"$@\""
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", mounts, "sh", "chroot", *who, str(folder),
            "env", "-i", *assign, "sh", "-c", shell]


def copy(arguments, folders, target):
    """COPY SOURCE TARGET, from the context or from a stage."""
    words = arguments.split()
    source = None
    if words[0].startswith("--from="):
        source = folders[words.pop(0).removeprefix("--from=")]
    what, where = words
    to = target / where.lstrip("/")
    to.mkdir(parents=True, exist_ok=True)
    if source is not None:
        run(["cp", "-a", f"{source}/{what.strip('/')}/.", f"{to}/"])
        return
    assert what == ".", "the whole context, as .dockerignore leaves it"
    ignored = (ROOT / "docker/Dockerfile.dockerignore").read_text().split()
    run(["tar", "-C", ROOT, *[f"--exclude=./{name}" for name in ignored], "-cf", target / "context.tar", "."])
    run(["tar", "-C", to, "-xf", target / "context.tar"])
    (target / "context.tar").unlink()


class Runner:
    def __init__(self, folder, mirror):
        self.folder, self.mirror = folder, mirror
        self.passed = self.failed = 0
        self.folders = {}

    def test(self, title, action):
        start = time.monotonic()
        try:
            result = action()
        except (RuntimeError, AssertionError, OSError, ValueError) as e:
            self.failed += 1
            print(f"FAIL {title}: {e}", flush=True)
            raise
        self.passed += 1
        print(f"ok   {title} ({time.monotonic() - start:.0f} s)", flush=True)
        return result

    def stage(self, index, stage):
        folder = self.folder / f"stage{index}"
        clean = self.folder / SUITES[stage.image]
        if not clean.exists():
            self.test(f"FROM {stage.image}", lambda: base(clean, SUITES[stage.image], self.mirror))
        run(["cp", "-a", clean, folder])
        self.folders[stage.name or str(index)] = folder
        env = {}
        for what, rest in stage.steps:
            title = f"{what} {rest[:90]}"
            if what == "RUN":
                self.test(title, lambda shell=rest: run(inside(folder, env, None, shell)))
            elif what == "COPY":
                self.test(title, lambda arguments=rest: copy(arguments, self.folders, folder))
            elif what == "ENV":
                env.update(word.split("=", 1) for word in rest.split())
        return folder, env

    def serve(self, folder, env, stage, model):
        shutil.copy(model, folder / "model.gguf")
        os.chmod(folder / "model.gguf", 0o644)
        user, port = stage.last("USER"), int(stage.last("EXPOSE"))
        command = dockerfile.command(stage.last("ENTRYPOINT")) + dockerfile.command(stage.last("CMD"))
        self.test("USER has no rights and owns the VOLUME", lambda: run(
            inside(folder, env, user, f"test $(id -u) != 0 && touch {stage.last('VOLUME')}/x && rm {stage.last('VOLUME')}/x "
                                      f"&& ! touch /usr/bin/x 2>/dev/null && ! command -v gcc")))
        shell = " ".join(f"'{word}'" for word in command + ["--model", "/model.gguf"])
        health = " ".join("'" + word.replace("'", "'\\''") + "'" for word in dockerfile.command(stage.last("HEALTHCHECK")))
        log = open(self.folder / "log", "wb")
        p = subprocess.Popen(inside(folder, env, user, f"exec {shell}"), stdout=log, stderr=log)

        def healthy():
            for _ in range(600):
                if p.poll() is not None:
                    break
                if subprocess.run(inside(folder, env, user, health), capture_output=True).returncode == 0:
                    return
                time.sleep(0.2)
            raise AssertionError((self.folder / "log").read_text()[-2000:])

        def ask():
            body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}).encode()
            request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=120) as r:
                assert json.load(r)["usage"]["completion_tokens"] > 0

        def stop():
            child = pathlib.Path(f"/proc/{p.pid}/task/{p.pid}/children").read_text().split()[0]
            os.kill(int(child), getattr(signal, stage.last("STOPSIGNAL")))
            assert p.wait(60) == 0, p.returncode

        try:
            self.test("ENTRYPOINT and CMD become healthy", healthy)
            self.test("a question is answered", ask)
            self.test(f"STOPSIGNAL {stage.last('STOPSIGNAL')} ends it with status 0", stop)
            self.test("HEALTHCHECK says no without a server", lambda: run(inside(folder, env, user, f"! {health} 2>/dev/null")))
        finally:
            if p.poll() is None:
                p.kill()
            log.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", help="where the Debian folders are made; removed at the end (default: a temporary one)")
    parser.add_argument("--mirror", default=os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian"))
    parser.add_argument("--model", default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    args = parser.parse_args()
    runner, skipped = None, 0
    with tempfile.TemporaryDirectory(prefix="qttt-image-", dir=args.folder) as folder:
        try:
            requirements()
            runner = Runner(pathlib.Path(folder), args.mirror)
            for i, stage in enumerate(dockerfile.parse()):
                where, env = runner.stage(i, stage)
            runner.serve(where, env, stage, args.model)
        except CannotRun as e:
            skipped = 1
            print(f"skip: the image's steps cannot be run here: {e}")
        except (RuntimeError, AssertionError, OSError, ValueError):
            pass  # has been said and counted
    passed, failed = (runner.passed, runner.failed) if runner else (0, 0)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 77 if skipped else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
