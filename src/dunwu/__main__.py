"""`python -m dunwu` is `dunwu`."""

from dunwu.cli import main

main()
