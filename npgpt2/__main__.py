"""`python -m npgpt2` is the same as `npgpt2`."""

import sys

from npgpt2.cli import main

if __name__ == "__main__":
    sys.exit(main())
