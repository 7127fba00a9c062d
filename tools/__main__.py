"""`python -m tools`: the same as the `logstore` command."""

from tools.main import main

main()
