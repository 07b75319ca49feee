"""A process that ends itself, as by SIGKILL, after so many files have been flushed to the disk."""


def killing(module):
    """The program of `python -c`: the number of files, then the arguments of `module`'s main."""
    return f"""
import os, signal, sys
from {module} import main
flush, left = os.fsync, [int(sys.argv.pop(1))]
def fsync(file):
    flush(file)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = fsync
main(sys.argv[1:])
"""
