#!/usr/bin/env python3
"""nvcc_unit.py NVCC SOURCE FOLDER OBJECT DEPFILE - compiles one file of kernels/cuda for the CUDA module.

What nvcc makes on the way (PTX, machine code) and what it and ptxas say (output.txt) stay in FOLDER: tests/custatic judges them
and need not compile again. A warning is a failure. Standard library only.
"""
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
ARCHITECTURES = (80, 90)

# What these flags call an error is one: spills, local memory, launches on the default stream, host functions in kernels.
# Launch bounds are looked for in the PTX instead (tests/custatic): nvcc 13.0 warns of templates that have them.
FLAGS = ["-std=c++17", "-O3", f"-I{ROOT}", "-Xptxas=-v,-warn-spills,-warn-lmem-usage,-Werror",
         "--Werror=default-stream-launch,cross-execution-space-call,reorder", "-Xcompiler=-Wall,-Wextra,-Wno-unused-parameter"]
# Of a library of which one function is seen; code for sm_80 and sm_90, PTX for others, which tests/cuptx interprets: not compressed.
MODULE_FLAGS = ["-Xcompiler=-fPIC,-fvisibility=hidden", "-gencode=arch=compute_80,code=[sm_80,compute_80]",
                "-gencode=arch=compute_90,code=sm_90", "--compress-mode=none"]


def main():
    nvcc, source, folder, made, depfile = sys.argv[1:]
    folder = pathlib.Path(folder) / pathlib.Path(source).stem
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    command = [nvcc, *FLAGS, *MODULE_FLAGS, "-x", "cu", "-c", "--keep", "--keep-dir", folder, "-MD", "-MF", depfile, "-MT", made,
               "-o", made, source]
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (folder / "output.txt").write_text(done.stdout)
    warnings = [line for line in done.stdout.splitlines() if "warning" in line.lower()]
    if done.returncode != 0 or warnings:
        sys.stderr.write(done.stdout if done.returncode != 0 else "\n".join(warnings) + "\n")
        pathlib.Path(made).unlink(missing_ok=True)
        sys.exit(done.returncode or 1)
    for made_on_the_way in folder.iterdir():
        if made_on_the_way.suffix not in (".ptx", ".cubin", ".txt"):
            made_on_the_way.unlink()


if __name__ == "__main__":
    main()
