"""The teacher cache: layout, shards, codecs, reader."""
