"""What is asked of trained models: how well they read beyond their window, and why."""

import sys

if sys.argv[:1] == ["-m"]:  # while Python looks for python -m experiments.<command>
    from conf.start import begin

    begin()
