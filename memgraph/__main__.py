"""`python -m memgraph`."""

from memgraph.cli.main import main

if __name__ == "__main__":
    main()
