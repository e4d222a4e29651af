"""Models as files: `.h5` that training goes on from, the other formats, and reading foreign files safely."""
