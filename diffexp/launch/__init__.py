"""From a command line to validated configurations and run folders; nothing heavy is imported here."""
