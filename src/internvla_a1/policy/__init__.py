"""From observation and instruction to an action chunk: numpy in, numpy out."""
