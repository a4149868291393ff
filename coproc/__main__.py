"""``python -m coproc`` is the command line."""

from coproc.cli import main

if __name__ == "__main__":
    main()
