"""The folder of a build: names of files, digests, resume, and reading it when it is finished."""
