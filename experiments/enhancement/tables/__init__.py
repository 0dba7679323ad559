"""The tables and figures of the thesis on noisy speech, beside ours."""
