"""Sessions in web frameworks: a file or a folder each, over the parts that they share (:mod:`.web`)."""
