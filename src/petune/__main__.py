"""`python -m petune`: the command `petune`."""

from petune.cli.entry import main

if __name__ == "__main__":
    main()
