"""A page that hears a recording, answers, and shows what heads read at the thinking positions."""
