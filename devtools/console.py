"""What the user sees: progress lines, quiet long commands, errors without a traceback."""

import errno
import re
import shutil
import subprocess
import sys
import tempfile
import time


class DevError(Exception):
    """Something the user can act on; shown without a traceback."""


class Step:
    """A titled line with the elapsed time: live on a terminal, plain lines elsewhere."""

    def __init__(self, title, pause=30):
        self.title, self.pause = title, pause
        self.start = self.printed = time.monotonic()
        self.live = sys.stdout.isatty()

    def __enter__(self):
        print(f"{self.title} ...", end="" if self.live else "\n", flush=True)
        return self

    def __exit__(self, kind, *_):
        failed = kind and issubclass(kind, Exception)
        self._print("failed" if failed else "stopped" if kind else "done", last=True)

    def update(self, state=""):
        if self.live or time.monotonic() - self.printed >= self.pause:
            self._print(state)

    def _print(self, state, last=False):
        self.printed = time.monotonic()
        line = " ".join((self.title, "...", state, f"({self.printed - self.start:.0f} s)"))
        line = line.replace("  ", " ")
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            line = "\r" + line[:width].ljust(width)
        print(line, end="\n" if last or not self.live else "", flush=True)


def tail(text, lines=15):
    """The last lines of a log, a progress bar counting as its latest state only."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n")
    shown = [line.split("\r")[-1] for line in text.split("\n")]
    return "\n".join("  " + line for line in [s for s in shown if s.strip()][-lines:])


def end_process(process, patience=10):
    """Wait for a process told to stop; kill it when it does not."""
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run_step(title, command, advice):
    """Run a long command without its output, except the end of it when it fails."""
    with Step(title) as step, tempfile.TemporaryFile() as log:
        # close_fds=False: a child that outlives a killed parent keeps holding the set-up lock.
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, close_fds=False,
        )  # fmt: skip
        try:
            while process.poll() is None:
                step.update()
                time.sleep(0.2)
        finally:
            if process.poll() is None:
                process.terminate()
                end_process(process)
        if process.returncode:
            log.seek(0)
            output = log.read().decode(errors="replace")
            if "No space left on device" in output:
                raise OSError(errno.ENOSPC, "No space left on device")
            raise DevError(f"{title}: failed.\n{tail(output)}\n{advice}")
