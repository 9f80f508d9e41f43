"""An image's command as a process: on a read-only root, as the image's user, without privileges."""

import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.images.build import buildah, configuration
from tests.services.process import Server

MOUNTS = """
mount --bind "$ROOT" "$ROOT"
mount -o remount,bind,ro "$ROOT"
mount -t tmpfs -o size=256m,mode=1777 tmpfs "$ROOT/tmp"
mount --rbind /proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount --bind "$DATA" "$ROOT/data"
mount --bind "$SHARED" "$ROOT/mnt"
mount -o remount,bind,ro "$ROOT/mnt"
"""


class Image:
    """An image's files, mounted, and its configuration."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.config = configuration(name)
        self._container = buildah("from", "--pull-never", name)
        self.root = Path(buildah("mount", self._container))
        user, _, group = self.config["User"].partition(":")
        assert int(user) > 0, f"{name} runs as root"
        assert int(group) > 0, f"{name} runs in the group of root"
        self.user = int(user)

    def remove(self) -> None:
        buildah("umount", self._container)
        buildah("rm", self._container)

    def program(self, words: Sequence[str]) -> list[str]:
        """Return the image's program with these words, or with the image's own."""
        return [*self.config["Entrypoint"], *(words or self.config["Cmd"])]

    def command(self, program: Sequence[str], env: Mapping[str, str], data: Path, shared: Path) -> list[str]:
        """Return the command line that runs a program in the image.

        `data` becomes /data, the only writable folder beside /tmp; `shared` becomes /mnt. Each process of the command
        line replaces the one before, so that signals reach the program.
        """
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in env.items())]
        inside = ["env", "-i", f"--chdir={self.config['WorkingDir']}", *variables, *program]
        chroot = ["chroot", f"--userspec={self.config['User']}", "--groups=", str(self.root), *inside]
        places = {"ROOT": self.root, "DATA": data, "SHARED": shared}
        setting = "".join(f"{name}={shlex.quote(str(path))}\n" for name, path in places.items())
        script = f"set -e\n{setting}{MOUNTS}exec setpriv --no-new-privs {shlex.join(chroot)}"
        return ["unshare", "--mount", "sh", "-c", script]


class Container(Server):
    """A process of an image, with a data folder of its own."""

    stop_timeout_s = 90.0

    def __init__(self, image: Image, name: str, folder: Path, env: Mapping[str, str], shared: Path) -> None:
        self.name, self.image, self.env, self.shared = name, image, env, shared
        folder.mkdir(parents=True)
        super().__init__(folder)
        self.data = folder / "data"
        self.data.mkdir(mode=0o700)
        subprocess.run(["chown", self.image.config["User"], self.data], check=True)

    def start(self, *words: str, ready: Callable[[], bool] = lambda: True) -> None:
        self.spawn(self._command(self.image.program(words)), ready=ready)
        print(f"running: {self.image.name} {' '.join(words[:5])}", flush=True)

    def run(self, *words: str) -> str:
        """Run a command to its end. Return what it prints."""
        done = subprocess.run(self._command(self.image.program(words)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.image.name} {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
        print(f"ran: {self.image.name} {' '.join(words)}", flush=True)
        return done.stdout

    def is_healthy(self, default_port: str, port: str) -> bool:
        """Run the image's own health check, on the port that this container listens on."""
        kind, *words = self.image.config["Healthcheck"]["Test"]
        assert kind == "CMD", self.image.name
        check = [word.replace(f":{default_port}", f":{port}") for word in words]
        return subprocess.run(self._command(check), capture_output=True, check=False).returncode == 0

    def _command(self, program: Sequence[str]) -> list[str]:
        return self.image.command(program, self.env, self.data, self.shared)
