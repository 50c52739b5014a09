"""A local page that shows what a memory store holds, how it came to hold it, and what a question recalls."""
