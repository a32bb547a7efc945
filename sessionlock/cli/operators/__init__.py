"""Commands for whoever runs an application: ``top``, ``locks``, ``sessions``, ``inspect``, ``release``, ``logout``."""
