"""The integer executor and what is compared with it: engines, files of other tools, the given model."""
