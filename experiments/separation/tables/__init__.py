"""The tables and figures of the thesis on sounds taken apart, beside ours."""
