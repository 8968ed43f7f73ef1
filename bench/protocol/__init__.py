"""The protocol: what is drawn for a concept, who judges it, and what is computed from that."""
