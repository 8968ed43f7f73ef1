"""A thin stand-in for the WebUI's package `modules`: what the extension calls, nothing else.

Written from what the hosts do (WEBUI.md), to load the extension as they load it. It runs in two
shapes, "a1111" and "forge"; `modules.sd_models.lend` puts the demo model in.
"""
