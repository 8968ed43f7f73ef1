"""The WebUI extension: a tab and an API around the engine, for AUTOMATIC1111 and Forge-like hosts.

Only host/ and callbacks.py name the host's `modules`; all else is plain torch, gradio, fastapi.
"""
