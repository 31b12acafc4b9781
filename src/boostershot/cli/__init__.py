"""The command line: reads options, calls one function, and says in one line what went wrong.

Exit codes: 0 done; 1 a stage failed; 2 the input is wrong; 130 and 143 stopped by SIGINT and SIGTERM.
Text for people goes to the standard error; what was asked for (recipes, `--json`) to the standard output.
Heavy imports (torch and what needs it) are inside the functions: --help and a misspelt key must not wait.
"""

from boostershot.cli.calling import call, main

__all__ = ["call", "main"]
