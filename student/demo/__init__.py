"""A page in the browser: it takes a recording, answers, and shows what the heads predict."""
