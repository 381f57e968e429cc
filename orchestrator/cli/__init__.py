"""The command line, `muster …`. All but `up` and `doctor` talk to a running Muster over its own API."""
