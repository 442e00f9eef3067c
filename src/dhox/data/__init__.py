"""DATA, whatever it is: image folders, lists, shards, datasets, and their images."""
