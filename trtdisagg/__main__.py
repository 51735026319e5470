"""`python -m trtdisagg` is `trtdisagg`."""

from trtdisagg.cli.main import main

if __name__ == "__main__":
    main()
