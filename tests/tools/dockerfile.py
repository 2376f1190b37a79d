"""docker/Dockerfile as data: stages and their instructions, in the subset of its grammar that ours uses. Anything else is an
error, so that nothing is passed over. Reference: docs.docker.com/reference/dockerfile."""
import json
import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATH = ROOT / "docker/Dockerfile"
KNOWN = {"FROM", "RUN", "COPY", "ENV", "LABEL", "VOLUME", "USER", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"}


class Stage:
    def __init__(self, image, name):
        self.image, self.name, self.steps = image, name, []  # steps: (instruction, what follows)

    def all(self, instruction):
        return [rest for what, rest in self.steps if what == instruction]

    def last(self, instruction):
        return self.all(instruction)[-1]

    def packages(self):
        """What its RUN steps install with apt-get."""
        out = []
        for run in self.all("RUN"):
            for part in re.split(r"&&|;", run):
                words = shlex.split(part)
                if "apt-get" in words and "install" in words:
                    out += [w for w in words[words.index("install") + 1:] if not w.startswith("-")]
        return out


def parse(text=None):
    text = PATH.read_text() if text is None else text
    stages = []
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        what, rest = line.split(None, 1)
        if what not in KNOWN:
            raise ValueError(f"{PATH.name}: an instruction that this reader does not know: {what}")
        if what == "FROM":
            m = re.fullmatch(r"(\S+)(?: AS (\w+))?\s*", rest)
            stages.append(Stage(m.group(1), m.group(2)))
        else:
            stages[-1].steps.append((what, " ".join(rest.split()) if what != "RUN" else rest))
    return stages


def command(text):
    """CMD, ENTRYPOINT or the CMD of HEALTHCHECK in its exec form."""
    return json.loads(text[text.index("["):])
