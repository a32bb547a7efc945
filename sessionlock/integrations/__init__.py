"""Sessions in web frameworks: one file each, over the parts that they share (:mod:`.web`)."""
