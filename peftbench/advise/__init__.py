"""From one's own pictures to a method, a setting and an exported model: a race on validation images within a budget."""
