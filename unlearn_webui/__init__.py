"""The WebUI extension: a tab and an API around the engine, for AUTOMATIC1111 and Forge-like hosts.

Only the files host*.py name the host's `modules`; everything else is plain torch, gradio, fastapi.
"""
