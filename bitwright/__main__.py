"""`python -m bitwright` is `bitwright`."""

from bitwright.cli import main

if __name__ == "__main__":
    main()
