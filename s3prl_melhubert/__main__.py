"""`python -m s3prl_melhubert` is `melhubert`."""

from s3prl_melhubert.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
