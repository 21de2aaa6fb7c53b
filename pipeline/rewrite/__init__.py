"""From two captions to one shared question and two minimally different answers."""
