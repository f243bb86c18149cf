"""What puts this package to work inside programs that know nothing of it. Nothing here is
imported, or done, unless asked for."""
