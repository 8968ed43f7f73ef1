"""EmojiCanvas: the small world that the demo model draws, and all that it takes to rebuild it."""
